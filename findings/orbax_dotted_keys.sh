#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with jax 0.10.2: a tree {"block.0": a, "block": {"0": b}} is saved without an
# error, and both leaves come back as one of the two arrays: their key paths agree once
# the keys are joined by dots.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import pathlib

import numpy as np
import orbax.checkpoint as ocp

tree = {"block.0": np.full(3, 1.0), "block": {"0": np.full(3, 2.0)}}
path = pathlib.Path("saved").absolute()
with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(path, tree)
    restored = checkpointer.restore(path)
one, other = np.asarray(restored["block.0"]), np.asarray(restored["block"]["0"])
print("saved 1 and 2, restored", one, "and", other)
assert (one == other).all(), "both leaves are kept: the finding has changed"
PYTHON

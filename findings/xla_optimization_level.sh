#!/usr/bin/env bash
# jax 0.10.2 on a CPU: random initial weights of several networks, mapped by vmap, take
# XLA's backend several times as long to compile at its default optimisation level, 3, as
# at level 1 (jit's `compiler_options`), and both programs give the same bits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
cd "$folder"
cat > levels.py <<'PYTHON'
import time

import jax
import numpy as np

SHAPES = ((784, 100), (100, 100), (100, 10))


def weights(key):
    keys = [jax.random.fold_in(key, layer) for layer in range(len(SHAPES))]
    return [
        jax.random.truncated_normal(key, -2, 2, shape) / shape[0] ** 0.5
        for key, shape in zip(keys, SHAPES)
    ]


keys = jax.random.split(jax.random.key(0), 8)
lowered = jax.jit(jax.vmap(weights)).lower(keys)
jax.jit(lambda x: x + 1)(1.0)
seconds, values = {}, {}
for level in (1, 3):
    start = time.process_time()
    options = {"xla_backend_optimization_level": level}
    program = lowered.compile(compiler_options=options)
    seconds[level] = time.process_time() - start
    values[level] = [np.asarray(array) for array in program(keys)]
print("jax", jax.__version__)
for level, taken in seconds.items():
    print(f"level {level}: {taken:.2f} s of processor time to compile")
same = all((a == b).all() for a, b in zip(values[1], values[3]))
print("equal bits:", same)
assert same and seconds[3] > 2 * seconds[1], "the finding has changed"
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" levels.py

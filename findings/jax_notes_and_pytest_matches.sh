#!/usr/bin/env bash
# jax 0.10.2 adds a note (PEP 678) to an exception that passes through a transformation.
# pytest 9.2.0 matches `raises(match=)` against the message with its notes, so a pattern
# that ends in `$` fails although `str(error)` ends there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 pytest==9.2.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import pytest


def fails(x):
    raise ValueError("short")


def run():
    jax.eval_shape(fails, 1.0)


with pytest.raises(ValueError) as caught:
    run()
print("message:", str(caught.value))
print("notes:", caught.value.__notes__)
assert str(caught.value) == "short"
assert "internal frames" in "".join(caught.value.__notes__)
with pytest.raises(ValueError, match="^short"):
    run()
try:
    with pytest.raises(ValueError, match="^short$"):
        run()
except AssertionError as error:
    print("pytest:", str(error).splitlines()[0])
else:
    raise SystemExit("the pattern matches: the finding has changed")
PYTHON

#!/usr/bin/env bash
# jax 0.10.2 on a CPU: an array divided by a number, outside jit, is not the correctly
# rounded quotient that NumPy and one jitted division of two arrays give: XLA multiplies
# by the rounded reciprocal. An array of a single element is divided.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 numpy==2.4.6
cd "$folder"
cat > divided.py <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

values = np.arange(1, 52, dtype=np.float32)
seven = np.float32(7)
exact = values / seven
by_number = np.asarray(jnp.asarray(values) / 7)
by_array = np.asarray(jax.jit(jnp.divide)(values, np.full(51, seven)))
single = np.concatenate([np.asarray(jnp.asarray(values[i : i + 1]) / 7) for i in range(51)])
print("jax", jax.__version__)
print("51 values by the number 7, unlike NumPy:", int((by_number != exact).sum()))
print("equal to the product with 1/7:", bool((by_number == values * (1 / seven)).all()))
print("by an array of sevens, unlike NumPy:", int((by_array != exact).sum()))
print("one element at a time, unlike NumPy:", int((single != exact).sum()))
assert (by_number != exact).any(), "the finding has changed"
assert (by_array == exact).all() and (single == exact).all(), "the finding has changed"
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" divided.py

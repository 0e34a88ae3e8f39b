#!/usr/bin/env bash
# jax 0.10.2 on a CPU: an int4 array that device_put has placed is taken by a jitted
# function; the same function compiled ahead of time for this array (lower, compile)
# refuses it because of its layout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

weights = jax.device_put(jnp.arange(6).astype(jnp.int4), jax.devices()[0])
function = jax.jit(lambda w: w.astype(jnp.float32).sum())
compiled = function.lower(weights).compile()
try:
    print("ahead of time:", compiled(weights))
except ValueError as error:
    print("ahead of time:", str(error).splitlines()[0])
    assert "layouts" in str(error)
else:
    raise SystemExit("no error: the finding has changed")
print("jit:", function(weights))
assert function(weights) == 15
PYTHON

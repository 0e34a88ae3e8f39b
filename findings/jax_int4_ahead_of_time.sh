#!/usr/bin/env bash
# jax 0.10.2 on a CPU: a jitted function takes an int4 array; the same function compiled
# ahead of time (lower, compile) refuses the same array because of its layout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

weights = jnp.arange(6).astype(jnp.int4)
function = jax.jit(lambda w: w.astype(jnp.float32).sum())
print("jit:", function(weights))
compiled = function.lower(weights).compile()
try:
    print("ahead of time:", compiled(weights))
except Exception as error:
    print("ahead of time:", type(error).__name__, str(error).splitlines()[0][:200])
else:
    raise SystemExit("no error: the finding has changed")
PYTHON

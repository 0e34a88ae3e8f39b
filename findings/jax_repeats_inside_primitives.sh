#!/usr/bin/env bash
# jax 0.10.2: broadcasting along axes of size 1 is left to the primitive. The two operands
# of one "sub" in a jaxpr have shapes [2, 4, 1] and [1, 1, 4]; neither has the shape of the
# result, and no broadcast_in_dim to it precedes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

closed = jax.make_jaxpr(lambda h: h[:, :, None] - jnp.arange(4.0))(jnp.ones((2, 4)))
(equation,) = [e for e in closed.jaxpr.eqns if e.primitive.name == "sub"]
shapes = [tuple(atom.aval.shape) for atom in equation.invars]
print(closed)
print("operands", shapes, "result", equation.outvars[0].aval.shape)
assert shapes == [(2, 4, 1), (1, 1, 4)], "the finding has changed"
PYTHON

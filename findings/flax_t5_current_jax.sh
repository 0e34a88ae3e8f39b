#!/usr/bin/env bash
# transformers 4.57.1 with jax 0.10.2: FlaxT5 cannot be constructed. It calls jnp.clip by
# the name a_max, which this JAX no longer takes. Other Flax models of the same release,
# FlaxBert here, work; both are installed without a conflict.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==4.57.1 jax==0.10.2 flax==0.12.8
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>"$folder/warnings"
import inspect

import jax.numpy as jnp
from transformers import (
    BertConfig,
    FlaxBertModel,
    FlaxT5ForConditionalGeneration,
    T5Config,
)

bert = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
)
shape = FlaxBertModel(bert)(jnp.ones((2, 5), int)).last_hidden_state.shape
print("FlaxBert:", shape)
assert shape == (2, 5, 8)
assert "a_max" not in inspect.signature(jnp.clip).parameters
t5 = T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2)
try:
    FlaxT5ForConditionalGeneration(t5)
except TypeError as error:
    print("FlaxT5:", error)
    assert "a_max" in str(error), "another error: the finding has changed"
else:
    raise SystemExit("FlaxT5: no error: the finding has changed")
PYTHON

"""Records of arrays as text: a short table in place of arrays."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ioca_jax.checks import is_known

Table = tuple[str, dict[str, list[str]]]  # a heading, and columns by name


def as_text(record: Any, table: Callable[[], Table]) -> str:
    """A dataclass of arrays as a table, or by their shapes if values are not known."""
    arrays = jax.tree.leaves(record)
    if all(isinstance(a, np.ndarray | jax.Array) and is_known(a) for a in arrays):
        import pandas as pd  # half a second, for this text alone

        heading, columns = table()
        if not columns:
            return heading
        return f"{heading}\n{pd.DataFrame(columns).to_string(index=False)}"

    def shaped(field: Any) -> Any:
        return jax.tree.map(
            lambda a: f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else a, field
        )

    names = [field.name for field in dataclasses.fields(record)]
    texts = (f"{name}={shaped(getattr(record, name))}" for name in names)
    return f"{type(record).__name__}({', '.join(texts)})"

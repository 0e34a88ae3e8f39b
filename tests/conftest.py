"""Shape annotations are checked while the tests run, and randomness is fixed."""

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

with install_import_hook("ioca_jax", "beartype.beartype"):
    import ioca_jax as ioca

# JAX warns rather than mixing dtypes silently; here that is an error.
jax.config.update("jax_numpy_dtype_promotion", "standard")
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def mnist5k() -> ioca.Dataset:
    return ioca.load_dataset("mnist5k")

"""Shape annotations are checked while the tests run, and randomness is fixed."""

import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

# Compiling takes most of the time, and nothing that is tested depends on how fast
# programs run: they are compiled in the cheapest way, here and in processes of tests.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if not os.environ.get("IOCA_SLOW") and version("jax") < "0.11":  # unknown later
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# The processes that run tests and those that tests start share what they compile.
# IOCA_TEST_CACHE names a directory that keeps it for the next time.
KEPT = os.environ.get("IOCA_TEST_CACHE")
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
if not os.environ.get("PYTEST_XDIST_WORKER"):  # workers inherit it
    CACHE = KEPT or tempfile.mkdtemp(prefix="ioca_tests_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import settings
from jax._src import pjit
from jax._src.interpreters import pxla
from jaxtyping import config, install_import_hook


def checked(*, typechecker: Any) -> Callable:
    """Has the shapes of a function checked, unless it is inside of another one.

    Such a function is another one at every call, and its checks would be compiled anew,
    which took a fifteenth of the time of tests.
    """
    check = _jaxtyped(typechecker=typechecker)
    return lambda one: one if "<locals>" in one.__qualname__ else check(one)


_jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, checked

with install_import_hook("ioca_jax", "beartype.beartype"):
    import ioca_jax as ioca
    import ioca_jax.plots
    import ioca_jax.study.compute
    import ioca_jax.study.run
    from ioca_jax.results.pieces import Chunk


def pytest_unconfigure(config: pytest.Config) -> None:
    if not KEPT and not hasattr(config, "workerinput"):
        shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("IOCA_SLOW"):
        skip = pytest.mark.skip(reason="IOCA_SLOW is not set")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip)


settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


# A process grows by two megabytes with every program that JAX compiles, however
# small. Two thirds are the text that it was compiled from, which JAX keeps and which is
# forgotten first, beyond so many bytes; then the programs.
MOST_RESIDENT = 4e9


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Keeps a process that runs tests to about 4 GB."""
    yield
    lowered = (pjit._pjit_lower, pxla._cached_lowering_to_hlo)
    # Before JAX 0.7 they are functions of another kind.
    known = [cache.cache_clear for cache in lowered if hasattr(cache, "cache_clear")]
    for forget in (*known, jax.clear_caches):
        if resident_bytes() > MOST_RESIDENT:
            forget()
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # the C library keeps what is freed


def resident_bytes() -> int:
    """What this process holds of the machine's memory; 0 where Linux does not say."""
    statm = pathlib.Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Without the shape checker, so that the library's own answer is seen."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the programs that XLA compiles, as they come."""
    names: list[str] = []
    is_listening = True  # JAX before 0.9 cannot remove a listener

    def listen(event: str, duration_secs: float, **kwargs: str | int):
        del duration_secs
        if is_listening and event == "/jax/core/compile/backend_compile_duration":
            names.append(str(kwargs.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    is_listening = False


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The programs that are compiled in a test."""
    with compilations() as names:
        yield names


@pytest.fixture(scope="session")
def mnist5k() -> ioca.Dataset:
    return ioca.load_dataset("mnist5k")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the study ``TINY``; tests only read it, or copy it."""
    import synthetic

    folder = tmp_path_factory.mktemp("tiny") / "run"
    ioca.run_study(
        *(synthetic.TINY, folder),
        data=synthetic.own_data(), draw=False, seeds_at_once=1,
    )  # fmt: skip
    return folder


@pytest.fixture
def computed(tiny_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of ``TINY`` are computed already: a run only handles files."""
    import synthetic

    results, (_, variables) = ioca.load_results(tiny_run), ioca.load_networks(tiny_run)

    def compute_chunk(computation: Any, seeds: Any, *more: Any) -> Any:
        places = [synthetic.TINY.seeds.index(seed) for seed in seeds]
        networks = jax.tree.map(lambda leaf: leaf[places], variables)
        return Chunk(results.isel(seed=places), networks)

    monkeypatch.setattr(ioca_jax.study.compute.Computation, "chunk", compute_chunk)


def random_network(seed: int = 0, num_inputs: int = 12, **fields) -> tuple[Any, Any]:
    """A small network and variables none of which is at its initial value."""
    fields = {"hidden": (7, 5, 6), "num_classes": 4} | fields
    model = ioca.MLP(**fields)
    variables = model.init(jax.random.key(seed), jnp.zeros((1, num_inputs)))
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    # Positive throughout (a running variance must be) or of either sign.
    moved = [
        jnp.asarray(
            rng.uniform(0.5, 1.5, leaf.shape)
            if leaf.ndim == 1
            else rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]),
            jnp.float32,
        )
        for leaf in leaves
    ]
    return model, jax.tree.unflatten(structure, moved)


def random_examples(
    seed: int = 1, num_examples: int = 53, num_inputs: int = 12, num_classes: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes out of nothing."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(num_examples, num_inputs)).astype(np.float32)
    return x, rng.integers(num_classes, size=num_examples).astype(np.int32)

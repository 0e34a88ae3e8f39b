"""What importing the library takes: heavy packages wait until they are used."""

import processes
import pytest

import ioca_jax as ioca

HEAVY = (
    *("h5netcdf", "h5py", "jinja2", "matplotlib", "mlxtend", "optax", "orbax"),
    *(
        "pandas",
        "pyarrow",
        "scipy",
        "sklearn",
        "tensorflow",
        "tensorflow_datasets",
        "torch",
        "tqdm",
    ),
    "xarray",
)

PROGRAM = f"""
import sys
import jax
before = set(sys.modules)
import ioca_jax as ioca
print(*({set(HEAVY)!r} & set(sys.modules) - before))
assert set(ioca.__all__) <= set(dir(ioca))
ioca.plots.ablation_curves
"""


def test_importing_the_library_imports_no_heavy_package():
    assert processes.run("-c", PROGRAM, check=True).stdout.split() == []


def test_names_imported_when_used_are_those_of_their_modules():
    for name, module in ioca._LATER.items():
        assert getattr(ioca, name).__module__ == f"ioca_jax.{module}"
    assert ioca._LATER.keys() <= set(ioca.__all__)
    name = "other"
    with pytest.raises(AttributeError, match="'ioca_jax' has no attribute 'other'"):
        getattr(ioca, name)

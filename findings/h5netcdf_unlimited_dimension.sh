#!/usr/bin/env bash
# h5netcdf 1.8.2: each look at the size of an unlimited dimension opens every variable on
# it, and xarray looks once or more for each variable. Opening a file so takes time that
# grows with the square of its variables; with a dimension of fixed size it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet h5netcdf==1.8.2 h5py==3.16.0 xarray==2026.9.0
cd "$folder"
cat > opened.py <<'PYTHON'
import h5netcdf
import h5py
import numpy as np
import xarray as xr

lookups = 0
original = h5py.Group.__getitem__


def counted(self, name):
    global lookups
    lookups += isinstance(name, h5py.Reference)
    return original(self, name)


h5py.Group.__getitem__ = counted


def count(variables, unlimited):
    global lookups
    data = {f"v{i}": ("t", np.zeros(8)) for i in range(variables)}
    xr.Dataset(data).to_netcdf(
        "file.nc", engine="h5netcdf", unlimited_dims=["t"] if unlimited else []
    )
    lookups = 0
    xr.open_dataset("file.nc", engine="h5netcdf").close()
    return lookups


print("h5netcdf", h5netcdf.__version__, "xarray", xr.__version__)
found = {}
for unlimited in (False, True):
    for variables in (20, 40):
        found[unlimited, variables] = count(variables, unlimited)
        kind = "unlimited" if unlimited else "fixed"
        print(kind, "dimension,", variables, "variables:", found[unlimited, variables],
              "objects looked up by reference")
assert found[True, 40] > 3.5 * found[True, 20] > 100, "the finding has changed"
assert found[False, 40] <= 40 * 4, "the finding has changed"
PYTHON
"$folder/venv/bin/python" opened.py

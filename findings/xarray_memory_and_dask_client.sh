#!/usr/bin/env bash
# xarray 2026.9.0 with distributed 2026.8.0: NetCDF that is written into memory, without a
# path, fails in a process that has connected to a Dask cluster, though no array is one of
# Dask's. xarray then takes a lock of the cluster, named by the object in memory.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
	xarray==2026.9.0 distributed==2026.8.0 h5netcdf==1.8.2 h5py==3.16.0
cd "$folder"
cat >try.py <<'PYTHON'
import logging

import dask
import numpy as np
import xarray as xr
from distributed import Client

results = xr.Dataset({"score": ("neuron", np.arange(3.0))})


def write():
    return len(bytes(results.to_netcdf(engine="h5netcdf")))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print("before:", write() > 0)
    with Client(n_workers=1, threads_per_worker=1, dashboard_address=None):
        try:
            write()
        except RuntimeError as error:
            text = str(error)
            print("connected:", text.partition("`")[0], text.rpartition("`")[2])
            assert "BytesIO" in text, "another error: the finding has changed"
        else:
            raise SystemExit("connected: no error: the finding has changed")
        with dask.config.set(scheduler="threads"):
            print("connected, scheduler threads:", write() > 0)
PYTHON
"$folder/venv/bin/python" try.py 2>"$folder/warnings"

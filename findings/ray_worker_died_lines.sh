#!/usr/bin/env bash
# ray 2.60.0: `log_to_driver=False` silences what workers print, and not Ray's own line
# "(raylet) A worker died ...", in colour, on the standard output of the driver, where
# a program prints its results.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
cd "$folder"
cat > driver.py <<'PYTHON'
import logging
import os
import time

import ray

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR)


@ray.remote(max_retries=0)
def dies():
    print("printed by the worker", flush=True)
    os._exit(1)


try:
    ray.get(dies.remote())
except ray.exceptions.WorkerCrashedError as error:
    print("caught", type(error).__name__, flush=True)
time.sleep(5)
PYTHON
"$folder/venv/bin/python" driver.py > out.txt 2> err.txt
"$folder/venv/bin/python" -c 'import ray; print("ray", ray.__version__)'
for file in out.txt err.txt; do
  echo "$file:"
  cut -c 1-100 "$file"
done
if grep -q "printed by the worker" out.txt err.txt; then
  echo "log_to_driver=False shows the worker's output: the finding has changed"
  exit 1
fi
grep -q "(raylet).* A worker died" out.txt || { echo "the finding has changed"; exit 1; }

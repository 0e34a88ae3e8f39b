#!/usr/bin/env bash
# submitit 1.5.4: the local executor, which stands in for Slurm in tests, starts all jobs
# of an array at once. `slurm_array_parallelism=1`, which has Slurm run them one after
# another, is accepted and has no effect, without a warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet submitit==1.5.4
cd "$folder"
"$folder/venv/bin/python" -W error - <<'PYTHON'
import time

import submitit


def nap(number: int) -> tuple[float, float]:
    start = time.time()
    time.sleep(5)
    return start, time.time()


executor = submitit.AutoExecutor("logs", cluster="local")
executor.update_parameters(slurm_array_parallelism=1, timeout_min=5)
jobs = executor.map_array(nap, range(4))
naps = sorted(job.result() for job in jobs)
first = naps[0][0]
print("submitit", submitit.__version__)
for start, end in naps:
    print(f"job from {start - first:.1f} s to {end - first:.1f} s")
at_once = max(sum(s <= start < e for s, e in naps) for start, _ in naps)
print("jobs at once:", at_once)
assert at_once == 4, "the finding has changed"
PYTHON

#!/usr/bin/env bash
# SciPy 1.17.1: the lower tail of the noncentral t distribution, as a calculation of power
# takes it, is NaN at some noncentralities and right at others between them. With five
# degrees of freedom nct.cdf(-2.57) is NaN for 10, 12 and 20 but a number for 9, 11 and 30.
# The other tail is a number at all of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math

import scipy.stats

freedom, quantile = 5, 2.57
missing = []
for effect in (9, 10, 11, 12, 20, 30):
    lower = scipy.stats.nct.cdf(-quantile, freedom, effect)
    upper = scipy.stats.nct.cdf(quantile, freedom, effect)
    print(f"noncentrality {effect}: P(t < -2.57) = {lower}, P(t < 2.57) = {upper}")
    assert 0 <= upper < 1e-6, "the finding has changed"
    if math.isnan(lower):
        missing.append(effect)
assert missing == [10, 12, 20], f"NaN at {missing}: the finding has changed"
PYTHON

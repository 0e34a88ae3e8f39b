#!/usr/bin/env bash
# matplotlib 3.11.1: with pdf.fonttype 42 the glyphs of a font are embedded in groups, by
# their code points in blocks of 256, and each group parses and subsets the whole font
# anew. A figure whose text has a true minus sign (U+2212, which tick labels of negative
# numbers have) embeds DejaVu Sans twice, and takes longer for it; nothing is kept from
# one file to the next.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet matplotlib==3.11.1 fonttools==4.63.0
cd "$folder"
cat > subsets.py <<'PYTHON'
import io
import time

import matplotlib
import matplotlib.backends._backend_pdf_ps as shared

matplotlib.use("pdf")
matplotlib.rcParams["pdf.fonttype"] = 42
from matplotlib.figure import Figure

calls = []
subset = shared.get_glyphs_subset


def counted(fontfile, glyphs):
    calls.append(len(glyphs))
    return subset(fontfile, glyphs)


shared.get_glyphs_subset = counted
import matplotlib.backends.backend_pdf as backend_pdf

for name in dir(backend_pdf):
    if getattr(backend_pdf, name) is subset:
        setattr(backend_pdf, name, counted)


def save(low):
    calls.clear()
    figure = Figure()
    figure.subplots().plot([low, 1])
    began = time.process_time()
    figure.savefig(io.BytesIO(), format="pdf")
    return len(calls), time.process_time() - began


save(0)
positive, negative, again = save(0), save(-1), save(-1)
print("matplotlib", matplotlib.__version__)
print(f"ticks from 0 to 1:  {positive[0]} subset, {positive[1]:.2f} s")
print(f"ticks from -1 to 1: {negative[0]} subsets, {negative[1]:.2f} s")
print(f"the same once more: {again[0]} subsets, {again[1]:.2f} s")
assert (positive[0], negative[0], again[0]) == (1, 2, 2), "the finding has changed"
PYTHON
"$folder/venv/bin/python" subsets.py

#!/usr/bin/env bash
# docutils 0.22.4: its converter from TeX to MathML sets a subscript that follows an
# accent below the letter, where TeX sets it beside; an empty group between them helps.
# It has no \dots, which is refused as an unknown command; \ldots is there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet docutils==0.22.4
cd "$folder"
cat > formulas.py <<'PYTHON'
import docutils
from docutils.utils.math import MathError, latex2mathml

accent = latex2mathml.tex2mathml(r"\tilde{A}_{i}")
apart = latex2mathml.tex2mathml(r"\tilde{A}{}_{i}")
plain = latex2mathml.tex2mathml(r"A_{i}")
print("docutils", docutils.__version__)
for name, text in (("A_i", plain), ("tilde A_i", accent), ("tilde A{}_i", apart)):
    kinds = [kind for kind in ("msub", "munder", "munderover") if f"<{kind}>" in text]
    print(f"{name}: {', '.join(kinds)}")
latex2mathml.tex2mathml(r"a, \ldots, b")
try:
    latex2mathml.tex2mathml(r"a, \dots, b")
except MathError as error:
    print(r"\dots:", error)
else:
    raise SystemExit("the finding has changed")
assert "<msub>" in plain and "<msub>" in apart, "the finding has changed"
assert "<msub>" not in accent and "<munder" in accent, "the finding has changed"
PYTHON
"$folder/venv/bin/python" formulas.py

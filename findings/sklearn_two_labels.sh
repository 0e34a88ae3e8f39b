#!/usr/bin/env bash
# scikit-learn 1.9.1: an MLPClassifier fitted to two labels an example (y [N, 2] of 0 and 1,
# all four combinations) has classes_ [0 1] and a logistic output, as one fitted to two
# classes has. Only n_outputs_ and the shape of the last weights tell them apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
from sklearn.neural_network import MLPClassifier

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x = rng.normal(size=(80, 4))
labels = (x[:, :2] > 0).astype(int)
two_labels = MLPClassifier((3,), max_iter=5).fit(x, labels)
two_classes = MLPClassifier((3,), max_iter=5).fit(x, labels[:, 0])
for name, fitted in (("two labels", two_labels), ("two classes", two_classes)):
    shape = fitted.coefs_[-1].shape
    print(name, fitted.classes_, fitted.out_activation_, fitted.n_outputs_, shape)
assert list(two_labels.classes_) == list(two_classes.classes_) == [0, 1]
assert two_labels.out_activation_ == two_classes.out_activation_ == "logistic"
assert (two_labels.n_outputs_, two_classes.n_outputs_) == (2, 1)
PYTHON

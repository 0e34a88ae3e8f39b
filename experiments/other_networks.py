r"""Tests the paper's claims on convolutional networks and transformers, and by clamp.

  python -m experiments.other_networks --data_dir=data --workdir=runs/other_networks
  python -m experiments.other_networks --data_dir=data --settings=mnist_cnn

Eight networks a setting, a folder each, as run_study leaves it; the settings are fields
of other_settings.py, and --settings takes some of them. Ablated neurons output zero,
their mean, the constants that minimise the loss, or their outputs for another example.
What is finished is not run again.

Beside the folders lie, over the settings asked for: claims.csv, each comparison that a
claim rests on; orders.csv, whether orders that allow for redundancy are better than
mutual information; and results.md, which says it in tables, and is printed.
"""

import pathlib

from absl import flags

from . import config_flags, other_settings

WORKDIR = flags.DEFINE_string(
    "workdir", "runs/other_networks", "Where everything goes."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "TensorFlow Datasets' directory; its own default if not given.",
)
ASKED = flags.DEFINE_multi_string(
    "settings", None, "A setting to run; give it again for more. All if not given."
)
flags.adopt_module_key_flags(config_flags)  # --help lists them


def main() -> None:
    """Runs what is not finished, and judges the claims."""
    asked = ASKED.value or list(other_settings.SETTINGS)
    folder = pathlib.Path(WORKDIR.value)
    print(other_settings.run_settings(asked, DATA_DIR.value, folder))


if __name__ == "__main__":
    config_flags.run_main(main)

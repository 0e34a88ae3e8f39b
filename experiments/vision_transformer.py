"""Studies a small vision transformer: its attention heads and MLP units are layers.

    python -m experiments.vision_transformer --dataset=mnist --data_dir=data \
        --num_test=1000 --epochs=5 --workdir=runs/vision_transformer

The network and its training are in ``experiments/transformer.py``. Widths, activation
and regularisers of the flags do not apply.
"""

from . import traced_study
from .transformer import train_all

if __name__ == "__main__":
    traced_study.run(train_all)

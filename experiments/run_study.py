r"""Trains networks, measures their neurons, ablates them in every order, and reports.

The main job. For example, the paper's experiment on 5,000 real MNIST digits:

  python -m experiments.run_study --dataset=mnist5k --seeds=0:5 --hidden=100,100 \
      --activation=relu --epochs=20 --workdir=runs/demo

The run's folder then holds study.nc (everything, labelled; ioca_jax.load_results reads
it), networks/, figures/, summary.txt (what is printed), and flags.txt, which replays
the run: --flagfile=runs/demo/flags.txt --workdir=runs/again. A folder that already
holds this run's results is reported, not computed again.
"""

from absl import flags

import ioca_jax as ioca
from experiments import config_flags

WORKDIR = flags.DEFINE_string("workdir", "runs/study", "The run's folder.")
config_flags.define(ioca.StudyConfig)
flags.adopt_module_key_flags(config_flags)  # --help lists them


def main() -> None:
    """Runs the study that the flags describe, and prints its summary."""
    config = config_flags.parse(ioca.StudyConfig)
    results = ioca.run_study(config, WORKDIR.value, progress=True)
    print(ioca.summarize(results))
    print(
        f"\nWritten to {WORKDIR.value}: study.nc, networks, figures, summary.txt, "
        "flags.txt"
    )


if __name__ == "__main__":
    config_flags.run_main(main)

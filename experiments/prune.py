"""``python -m experiments.prune`` is ``ioca prune``."""

from ioca_jax.cli.prune import COMMAND

if __name__ == "__main__":
    COMMAND.run()

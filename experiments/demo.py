"""``python -m experiments.demo`` is ``ioca demo``."""

from ioca_jax.cli.demo import COMMAND

if __name__ == "__main__":
    COMMAND.run()

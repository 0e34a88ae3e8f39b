"""``python -m experiments.report`` is ``ioca report``."""

from ioca_jax.cli.report import COMMAND

if __name__ == "__main__":
    COMMAND.run()

"""``python -m experiments.merge`` is ``ioca merge``."""

from ioca_jax.cli.merge import COMMAND

if __name__ == "__main__":
    COMMAND.run()

"""``python -m experiments.run_study`` is ``ioca run``."""

from ioca_jax.cli.run import COMMAND

if __name__ == "__main__":
    COMMAND.run()

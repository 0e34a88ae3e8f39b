"""``python -m experiments.sweep`` is ``ioca sweep``."""

from ioca_jax.cli.sweep import COMMAND

if __name__ == "__main__":
    COMMAND.run()

"""Jobs that a researcher launches, each a thin layer of flags over ``ioca_jax``."""

"""Shares of a run's seeds."""

import dataclasses

from ioca_jax.study.config import StudyConfig


@dataclasses.dataclass(frozen=True)
class Shard:
    """A share of a run's seeds: every ``number``-th, from the ``index``-th on.

    Attributes:
        index: counted from 0.
        number: of shards.

    Raises:
        ValueError: an index out of range.

    Example:
        >>> import ioca_jax as ioca
        >>> ioca.Shard.parse("1/4").seeds(ioca.StudyConfig(seeds=(0, 1, 2, 3, 4, 5)))
        (1, 5)
    """

    index: int = 0
    number: int = 1

    def __post_init__(self):
        """Checks the range."""
        if not 0 <= self.index < self.number:
            raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {self}")

    def __str__(self):
        """``i/n``, as the command line takes it."""
        return f"{self.index}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads ``i/n``, such as ``0/4``."""
        index, _, number = text.partition("/")
        try:
            numbers = int(index), int(number)
        except ValueError:
            raise ValueError(
                f"shard: expected i/n, such as 0/4, got {text!r}"
            ) from None
        return cls(*numbers)

    def seeds(self, config: StudyConfig) -> tuple[int, ...]:
        """This share of a run's seeds; refuses more shards than seeds."""
        if self.number > len(config.seeds):
            raise ValueError(
                f"shard: expected at most {len(config.seeds)} shards, one for each "
                f"seed, got {self}"
            )
        return config.seeds[self.index :: self.number]

"""The computation of one chunk of seeds, wherever it runs."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ioca_jax.networks.trained import Trained
from ioca_jax.networks.training import train
from ioca_jax.results.pieces import Chunk
from ioca_jax.results.subsets import steps_of_scopes
from ioca_jax.study.chunks import find_chunks, named_arrays
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.pipeline import study_networks
from ioca_jax.study.plan import Identity, Plan


@dataclasses.dataclass(frozen=True)
class Computation:
    """What all chunks of a run share.

    Attributes:
        plan: the study.
        run: that the chunks belong to.
        folder: of the run.
        emit: called with the fields of every event.
        watch: of the run, or of the process that computes.
    """

    plan: Plan
    run: Identity
    folder: pathlib.Path
    emit: Callable[..., None]
    watch: Stopwatch

    def chunk(self, seeds: Sequence[int], length: int, number: int) -> Chunk:
        """Studies some seeds, filled up to a number of networks."""
        # Filled up with other seeds, whose results are dropped: one program for all.
        others = (seed for seed in itertools.count() if seed not in self.run.seeds)
        filled = [*seeds, *itertools.islice(others, length - len(seeds))]

        def on_scope(scope: str) -> None:
            self.watch.mark("first_curves")
            self.emit(event="scope", chunk=number, scope=scope)

        if self.plan.given:
            trained = self.plan.given.take(self.plan.fields["seeds"], filled)
        else:
            trained = self._train(filled, seeds, number)
            self.watch.mark("trained")
        steps = self._known_steps() if self.plan.points == "auto" else {}
        results = study_networks(self.plan, trained, steps=steps, on_scope=on_scope)
        digests = {
            "variables_digest": self.run.variables_digest,
            "fingerprint": self.run.fingerprint,
        }
        results.attrs |= {name: digest for name, digest in digests.items() if digest}
        variables = jax.tree.map(
            lambda leaf: leaf[: len(seeds)], named_arrays(trained.variables)
        )
        return Chunk(results.isel(seed=slice(len(seeds))), variables)

    def _known_steps(self) -> dict[str, np.ndarray]:
        """The steps that the run's first chunk chose; none before it is finished."""
        chunks, _ = find_chunks(self.folder)
        return steps_of_scopes(chunks[0].load().results) if chunks else {}

    def _train(
        self, filled: Sequence[int], seeds: Sequence[int], chunk: int
    ) -> Trained:
        """Trains some seeds, and those that fill the chunk up."""
        plan = self.plan

        def on_epoch(epoch: int, metrics: dict[str, np.ndarray]) -> None:
            means = {
                name: mean(values[: len(seeds)]) for name, values in metrics.items()
            }
            self.emit(
                event="epoch", chunk=chunk, first_seed=seeds[0], epoch=epoch, **means
            )

        model: Any = plan.model
        assert plan.training is not None
        return train(
            model,
            plan.data,
            plan.training,
            filled,
            keep_epochs=plan.trajectory_epochs,
            memory_gb=plan.memory_gb,
            on_epoch=on_epoch,
        )


def mean(values: np.ndarray) -> float | None:
    """The mean over networks that have not diverged; None, as JSON has no NaN."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None

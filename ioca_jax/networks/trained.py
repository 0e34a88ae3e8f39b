"""What training gives: the variables of all seeds, and their history."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from ioca_jax.networks.printed import Table, as_text

_MOST_SHOWN = 5  # epochs and seeds in a text


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trained:
    """Trained networks; every leaf begins with S.

    Attributes:
        variables: Flax variables, ``params`` and with batch norm ``batch_stats``.
        seeds: int32 [S].
        history: by name, float32 [S, E]: ``train_loss`` and ``train_accuracy`` are
            means over the epoch's batches as they were trained on (the loss with its
            penalty), ``validation_loss`` and ``validation_accuracy`` are those of the
            validation split at the epoch's end. Empty for networks trained elsewhere.
        snapshots: the variables after each of the epochs that ``train`` was told to
            keep, in their order; leaves begin with S.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> data = ioca.Dataset.from_arrays(x[:300], y[:300], x[300:], y[300:])
        >>> model = ioca.MLP(hidden=(8,), num_classes=2)
        >>> trained = ioca.train(model, data, ioca.TrainConfig(epochs=2), seeds=(0, 1))
        >>> trained.history["validation_accuracy"].shape
        (2, 2)
        >>> trained.variables_of(1)["params"]["dense_0"]["kernel"].shape
        (2, 8)
    """

    variables: Any
    seeds: np.ndarray
    history: dict[str, Float[Array, "S E"]] = dataclasses.field(default_factory=dict)
    snapshots: tuple[Any, ...] = ()

    def variables_of(self, index: int) -> Any:
        """The variables of one network.

        Args:
            index: its place among ``seeds``, from 0.

        Returns:
            Variables without the seed axis.
        """
        return jax.tree.map(lambda leaf: leaf[index], self.variables)

    @property
    def diverged(self) -> Bool[np.ndarray, " S"]:
        """Whether a network's loss ceased to be finite; never without a history."""
        if not self.history:
            return np.zeros(len(self.seeds), bool)
        losses = [self.history[name] for name in ("train_loss", "validation_loss")]
        return np.asarray(~np.isfinite(np.stack(losses)).all(axis=(0, 2)))

    def __repr__(self) -> str:
        """A table of some epochs; shapes while JAX traces."""
        return as_text(self, self._table)

    def _table(self) -> Table:
        """The first epoch, the last, and some between, each a mean of networks."""
        diverged, networks = self.diverged, len(self.seeds)
        more = ", ..." if networks > _MOST_SHOWN else ""
        text = (
            f"{networks} network{'s' * (networks != 1)} (seeds "
            f"{', '.join(map(str, self.seeds[:_MOST_SHOWN]))}{more})"
        )
        if diverged.any():
            text += f", {diverged.sum()} diverged and left out"
        if not self.history or diverged.all():
            return text, {}
        epochs = np.shape(self.history["train_loss"])[1]
        rows = np.linspace(0, epochs - 1, min(epochs, _MOST_SHOWN)).round().astype(int)
        table = {"epoch": (rows + 1).astype(str).tolist()}
        for name, values in self.history.items():
            means = np.asarray(values)[~diverged][:, rows].mean(axis=0)
            unit = " (nats)" * name.endswith("loss")
            table[name.replace("_", " ") + unit] = [f"{mean:.4f}" for mean in means]
        return f"{text}, {epochs} epoch{'s' * (epochs != 1)}; mean of networks", table

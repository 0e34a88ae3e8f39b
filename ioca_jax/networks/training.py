"""Trains networks for many seeds in one program.

``vmap`` over seeds (``map`` on a CPU), ``scan`` over steps; of several devices each
trains a share of the seeds. A network is a pure function of its seed: the
seed's key gives the initial weights, the order of the examples in every epoch, and the
dropout masks. What else is trained does not affect it; a network that diverges is NaN
by itself.

The loss is the mean cross-entropy of a batch, in nats, plus ``l2`` times the sum of
squared kernel entries (biases and batch norm's parameters are not penalised). The
examples are shuffled anew every epoch; the last of them, fewer than ``batch_size``, are
not used in that epoch.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from ioca_jax.checks import (
    as_tuple,
    check_integer,
    check_number,
    named_arrays,
    nearest,
)
from ioca_jax.data import Dataset
from ioca_jax.devices import (
    AXIS,
    COMPILED_QUICKLY,
    device_mesh,
    fetch_examples,
    replicated,
    spread_examples,
)
from ioca_jax.networks.models import CNN, MLP, as_network
from ioca_jax.networks.trained import Trained

OPTIMIZERS = {
    "adam": optax.adam,
    "momentum": partial(optax.sgd, momentum=0.9),
    "sgd": optax.sgd,
}
HISTORY = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples a step.
        learning_rate: of the optimiser.
        l2: weight of the sum of squared kernel entries in the loss.
        optimizer: ``adam``, ``momentum`` (SGD with momentum 0.9) or ``sgd``.

    Example:
        >>> import ioca_jax as ioca
        >>> config = ioca.TrainConfig(epochs=5, optimizer="momentum", learning_rate=0.1)
        >>> config.batch_size
        32
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    l2: float = 1e-5
    optimizer: str = "adam"

    def __post_init__(self):
        """Checks the fields."""
        for name in ("epochs", "batch_size"):
            check_integer(name, getattr(self, name), least=1)
        check_number("learning_rate", self.learning_rate, positive=True)
        check_number("l2", self.l2, least=0.0)
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got "
                f"{self.optimizer!r}{nearest([self.optimizer], OPTIMIZERS)}"
            )


class _State(NamedTuple):
    """What training carries from step to step, for one seed."""

    variables: Any
    optimizer: Any
    key: Array


def train(
    model: MLP | CNN,
    data: Dataset,
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    initial: Any = None,
    keep_epochs: Sequence[int] = (),
    memory_gb: float = 4.0,
    on_epoch: Callable[[int, dict[str, np.ndarray]], None] = lambda epoch, metrics: (
        None
    ),
) -> Trained:
    """Trains one network for each seed, all at once.

    Args:
        model: the networks' shape.
        data: the dataset.
        config: how to train.
        seeds: distinct integers in [0, 2^31).
        initial: variables to start from, to train networks further or anew after
            pruning; leaves begin with S, in the order of ``seeds``. None starts from
            fresh ones. A seed decides its batches and dropout masks either way, and the
            optimiser's moments start at zero.
        keep_epochs: epochs after which to keep the variables too, 0 before training.
        memory_gb: seeds are trained in chunks that keep to about this much memory
            beside the data. Training images that take more than that lie spread over
            the devices; else each device has them all.
        on_epoch: called after each epoch of each chunk, with its number from 1 on and
            the history's entries [S] of the chunk.

    Returns:
        The networks, in the order of ``seeds``.

    Raises:
        ValueError: no seeds, a seed twice or out of range, a model with another number
            of classes than the data, a batch larger than the training split, variables
            of other networks than these, or epochs to keep past the end of training.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> data = ioca.Dataset.from_arrays(x[:300], y[:300], x[300:], y[300:])
        >>> model = ioca.MLP(hidden=(8,), num_classes=2)
        >>> config = ioca.TrainConfig(epochs=10, learning_rate=0.01)
        >>> trained = ioca.train(model, data, config, seeds=(0, 1))
        >>> bool((trained.history["validation_accuracy"][:, -1] > 0.9).all())
        True
    """
    if not isinstance(data, Dataset):
        raise ValueError(
            f"data: expected a Dataset, got a {type(data).__name__}; load_dataset and "
            "Dataset.from_arrays make one"
        )
    numbers = checked_seeds(seeds)
    check_fit(model, data, config)
    kept = check_epochs("keep_epochs", keep_epochs, config.epochs)
    if initial is not None:
        network = as_network(model, data.train.x)
        network.check_variables(initial, len(numbers), "initial")
    chunk = min(len(numbers), seeds_that_fit(model, data, config, memory_gb, len(kept)))
    mesh = device_mesh()
    chunk = -(-chunk // mesh.size) * mesh.size  # the same number on every device
    # Images that are too much for every device lie spread over all of them.
    spread = mesh.size > 1 and data.train.x.nbytes > memory_gb * 1e9
    images = spread_examples(data.train.x) if spread else replicated(data.train.x)
    arrays = (images, *replicated((data.train.y, data.validation)))
    done = []
    for start in range(0, len(numbers), chunk):
        some = numbers[start : start + chunk]
        # The last chunk is filled up, so that every chunk has the same program.
        places = np.minimum(np.arange(start, start + chunk), len(numbers) - 1)

        def heard(epoch: int, metrics: dict, number: int = len(some)) -> None:
            on_epoch(epoch, {name: m[:number] for name, m in metrics.items()})

        chosen = numbers[places], _copies(initial, places)
        done.append(
            _train_chunk(model, config, mesh, spread, arrays, *chosen, kept, heard)
        )
    variables, history, snapshots = jax.tree.map(
        lambda *chunks: jnp.concatenate(chunks)[: len(numbers)], *done
    )
    return Trained(variables, np.array(numbers, np.int32), history, snapshots)


def check_epochs(name: str, epochs: Sequence[int], last: int) -> tuple[int, ...]:
    """Numbers of finished epochs; refused unless ascending in [0, last]."""
    given = as_tuple(name, epochs)
    for epoch in given:
        check_integer(name, epoch)
    outside = [epoch for epoch in given if not 0 <= epoch <= last]
    if outside or any(a >= b for a, b in zip(given, given[1:], strict=False)):
        wrong = outside[0] if outside else ",".join(map(str, given))
        raise ValueError(
            f"{name}: expected ascending numbers from 0 (before training) to {last}, "
            f"the epochs of training, got {wrong}"
        )
    return given


def seeds_that_fit(
    model: MLP | CNN,
    data: Dataset,
    config: TrainConfig,
    memory_gb: float,
    num_snapshots: int = 0,
) -> int:
    """How many networks are trained at once within a budget beside the data."""
    per_seed = bytes_per_seed(model, config, data, num_snapshots)
    return max(1, int(memory_gb * 1e9 / per_seed))


def check_fit(model: MLP | CNN, data: Dataset, config: TrainConfig) -> None:
    """Refuses a network, examples or a batch that do not fit each other."""
    check_single(data)
    if model.num_classes != data.num_classes:
        raise ValueError(
            f"num_classes: expected {data.num_classes}, as {data.name} has, got "
            f"{model.num_classes}"
        )
    num_train = len(data.train.y)
    if config.batch_size > num_train:
        raise ValueError(
            f"batch_size: expected at most {num_train}, the training split's size, got "
            f"{config.batch_size}"
        )


def check_single(data: Dataset) -> None:
    """Refuses examples of several arrays, and labels of tokens."""
    if not isinstance(data.train.x, np.ndarray):
        names = ", ".join(name for name, _ in named_arrays("x", data.train.x))
        raise ValueError(
            f"x: expected one array, as an MLP or CNN takes, got {names}; give trained "
            "networks of your own: run_study(network=, variables=)"
        )
    if data.tokens is not None:
        raise ValueError(
            "y: expected one class for each example, as an MLP or CNN has, got [N, "
            f"{data.tokens}]; of one-hot labels take y.argmax(axis=1), and for tokens "
            "give trained networks of your own: run_study(network=, variables=)"
        )


def checked_seeds(seeds: Sequence[int]) -> np.ndarray:
    """Seeds as int64 [S]; refused unless distinct integers in [0, 2^31)."""
    given = as_tuple("seeds", seeds)
    outside = [s for s in given if isinstance(s, int) and not 0 <= s < 2**31]
    if outside:  # NumPy has no integers of all sizes
        raise ValueError(f"seeds: expected integers in [0, 2^31), got {outside[0]}")
    array = np.asarray(given)
    if not array.size or array.ndim != 1 or array.dtype.kind not in "ui":
        raise ValueError(f"seeds: expected one or more integers, got {list(given)}")
    values, times = np.unique(array, return_counts=True)
    if times.max() > 1:
        raise ValueError(
            f"seeds: expected distinct seeds, got {values[times.argmax()]} twice"
        )
    if values[0] < 0 or values[-1] >= 2**31:
        outside = values[0] if values[0] < 0 else values[-1]
        raise ValueError(f"seeds: expected integers in [0, 2^31), got {outside}")
    return array.astype(np.int64)


def bytes_per_seed(
    model: MLP | CNN, config: TrainConfig, data: Dataset, num_snapshots: int
) -> int:
    """Estimates the bytes that the training of one network holds at once."""
    num_train, *shape = data.train.x.shape
    variables = jax.eval_shape(model.init, jax.random.key(0), data.train.x[:1])
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    # Weights, two moments, gradient, update, and one being written.
    copies = 6 + num_snapshots
    outputs = sum(math.prod(layer.shape) for layer in model.layers)
    activations = 6 * (outputs + model.num_classes)
    batch = config.batch_size * (math.prod(shape) + activations)
    return 4 * (copies * weights + 2 * batch + 4 * num_train)


def _copies(variables: Any, places: np.ndarray) -> Any:
    """Some of the networks, in memory of their own: training overwrites its start."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32)[places], variables)


def _train_chunk(model, config, mesh, spread, arrays, seeds, initial, kept, on_epoch):
    """Variables, history and snapshots of as many networks as fit at once."""
    shape, seeds = arrays[0].shape[1:], jnp.asarray(seeds, jnp.uint32)
    state = _initial_states(model, config, shape, seeds, initial)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec(AXIS)))
    history, snapshots = [], []

    def keep(finished: int) -> None:
        if finished in kept:  # copies: the states are overwritten
            snapshots.append(jax.tree.map(jnp.copy, state.variables))

    keep(0)
    for epoch in range(config.epochs):
        state, metrics = _train_epoch(
            model, config, mesh, spread, state, epoch, *arrays
        )
        history.append(jax.block_until_ready(metrics))
        on_epoch(epoch + 1, jax.tree.map(np.asarray, metrics))
        keep(epoch + 1)
    stacked = {name: jnp.stack([h[name] for h in history], axis=1) for name in HISTORY}
    return state.variables, stacked, tuple(snapshots)


@partial(
    jax.jit,
    static_argnames=("model", "config", "shape"),
    compiler_options=COMPILED_QUICKLY,
)
def _initial_states(
    model: MLP | CNN,
    config: TrainConfig,
    shape: tuple[int, ...],
    seeds: Array,
    initial: Any = None,
):
    def init(seed: Array, variables: Any) -> _State:
        init_key, key = jax.random.split(jax.random.key(seed))
        if variables is None:
            variables = model.init(init_key, jnp.zeros((1, *shape)))
        optimizer = OPTIMIZERS[config.optimizer](config.learning_rate)
        return _State(variables, optimizer.init(variables["params"]), key)

    return jax.vmap(init)(seeds, initial)


@partial(
    jax.jit,
    static_argnames=("model", "config", "mesh", "spread"),
    donate_argnames="state",
)
def _train_epoch(model, config, mesh, spread, state, epoch, images, labels, validation):
    """One epoch of every network: the states, and the epoch's metrics [S]."""
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        partial(_epoch_of_networks, model, config, spread),
        mesh=mesh,
        in_specs=(
            *(split, everywhere, split if spread else everywhere),
            *(everywhere, everywhere),
        ),
        out_specs=split,
        check_vma=False,
    )(state, epoch, images, labels, validation)


def _epoch_of_networks(
    model: MLP | CNN,
    config: TrainConfig,
    spread: bool,
    state: _State,
    epoch: Array,
    images: Array,
    labels: Array,
    validation: Any,
):
    """``_train_epoch`` of the networks of one device."""
    optimizer = OPTIMIZERS[config.optimizer](config.learning_rate)
    num_train = len(labels)
    steps = num_train // config.batch_size
    gradient_of = jax.value_and_grad(partial(_loss, model, config), has_aux=True)

    def step(state: _State, batch_and_key):
        batch, key = batch_and_key
        (loss, (updates, hits)), gradient = gradient_of(
            state.variables["params"],
            state.variables,
            fetch_examples(images, batch) if spread else images[batch],
            labels[batch],
            key,
        )
        change, moments = optimizer.update(
            gradient, state.optimizer, state.variables["params"]
        )
        params = optax.apply_updates(state.variables["params"], change)
        variables = state.variables | updates | {"params": params}
        return _State(variables, moments, state.key), (loss, hits)

    def one_epoch(state: _State):
        shuffle_key, dropout_key = jax.random.split(
            jax.random.fold_in(state.key, epoch)
        )
        shuffled = jax.random.permutation(shuffle_key, num_train)
        batches = shuffled[: steps * config.batch_size].reshape(steps, -1)
        state, (losses, hits) = jax.lax.scan(
            step, state, (batches, jax.random.split(dropout_key, steps))
        )
        return state, losses.mean(), hits.mean()

    def validate(variables):
        logits, _ = model.apply(variables, validation.x)
        return _scores(logits, validation.y)

    state, train_loss, train_accuracy = _of_every_network(one_epoch, state)
    validation_loss, validation_accuracy = jax.lax.map(validate, state.variables)
    metrics = (train_loss, train_accuracy, validation_loss, validation_accuracy)
    return state, dict(zip(HISTORY, metrics, strict=True))


def _loss(model, config, params, variables, x, y, key):
    """A batch's loss with the L2 penalty, new batch statistics, and share of hits."""
    (logits, _), updates = model.apply(
        variables | {"params": params},
        x,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    loss, hits = _scores(logits, y)
    penalty = sum(
        jnp.sum(jnp.square(jnp.asarray(leaf)))
        for path, leaf in flatten_dict(params).items()
        if path[-1] == "kernel"
    )
    return loss + config.l2 * penalty, (updates, hits)


def _scores(logits: Array, y: Array) -> tuple[Array, Array]:
    """Mean cross-entropy in nats, and the share of hits."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == y)


def _of_every_network(function, states):
    """``vmap``; on a CPU one network after another.

    That is as fast on a CPU, by measurement, and its figures are the same to the last
    bit whatever networks run beside.
    """
    one_by_one = jax.default_backend() == "cpu"
    return jax.lax.map(function, states) if one_by_one else jax.vmap(function)(states)

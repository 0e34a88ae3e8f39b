"""The fully-connected classifier; an ablation is an argument of its forward pass.

A network returns its logits and the outputs of *all* hidden neurons, concatenated over
layers, so that nothing has to be hooked: what a caller does not use, ``jit`` prunes.
An ``Ablation`` is data, not a change of the network: ``vmap`` over it evaluates many.

A hidden layer is Dense, then batch norm if asked for, then the activation, then dropout
(in training only), then the ablation: an ablated neuron's output *is* its clamp value.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ioca_jax.checks import as_tuple, check_num_classes
from ioca_jax.networks.network import (
    Ablation,
    Layer,
    Network,
    Values,
    check_ablation,
    slices_of,
)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
}
PRECISIONS = ("highest", "high", "default")
BATCH_NORM_EPSILON = 1e-5


class MLP(nn.Module):
    """A fully-connected classifier with ablation as an argument.

    Attributes:
        hidden: widths of the hidden layers, first layer first.
        num_classes: C, the number of logits, at least 2.
        activation: ``relu``, ``sigmoid`` or ``tanh``.
        dropout_rate: share of hidden outputs dropped in training, in [0, 1).
        batch_norm: normalise pre-activations; running statistics outside training.
        matmul_precision: of every matrix product, forwards and backwards: ``highest``
            is float32 on every backend, ``default`` is the backend's own (TF32 on some
            GPUs).
    """

    hidden: Sequence[int]
    num_classes: int
    activation: str = "relu"
    dropout_rate: float = 0.0
    batch_norm: bool = False
    matmul_precision: str = "highest"

    if TYPE_CHECKING:  # Flax declares a union here that fits no network in particular

        def apply(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102

    def __post_init__(self):
        """Checks the fields; widths become a tuple, so that networks hash."""
        self.hidden = as_tuple("hidden", self.hidden)
        if not self.hidden or any(
            not isinstance(width, (int, np.integer)) or width < 1
            for width in self.hidden
        ):
            raise ValueError(
                "hidden: expected one or more widths, each a positive integer, got "
                f"{list(self.hidden)}"
            )
        self.hidden = tuple(int(width) for width in self.hidden)
        check_num_classes(self.num_classes)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, got "
                f"{self.activation!r}"
            )
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(
                f"dropout_rate: expected a share in [0, 1), got {self.dropout_rate}"
            )
        if self.matmul_precision not in PRECISIONS:
            raise ValueError(
                f"matmul_precision: expected one of {', '.join(PRECISIONS)}, got "
                f"{self.matmul_precision!r}"
            )
        super().__post_init__()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The hidden layers, ``layer_1`` the first."""
        return tuple(
            Layer(f"layer_{number}", width)
            for number, width in enumerate(self.hidden, 1)
        )

    @property
    def num_neurons(self) -> int:
        """H, the number of hidden neurons in all layers."""
        return sum(self.hidden)

    @property
    def num_layers(self) -> int:
        """L, the number of hidden layers."""
        return len(self.hidden)

    @property
    def layer_of_neuron(self) -> np.ndarray:
        """int32 [H]: the hidden layer of each neuron, counted from 0."""
        return np.repeat(np.arange(self.num_layers, dtype=np.int32), self.hidden)

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each hidden layer lies on the neuron axis."""
        return slices_of(self.layers)

    def setup(self):
        """Names the layers: ``dense_0`` ... ``dense_L`` and ``norm_0`` ..."""
        self.dense = [
            nn.Dense(width, precision=self.matmul_precision)
            for width in (*self.hidden, self.num_classes)
        ]
        self.norm = [
            nn.BatchNorm(epsilon=BATCH_NORM_EPSILON)
            for _ in self.hidden
            if self.batch_norm
        ]
        self.dropout = nn.Dropout(self.dropout_rate)

    def _layer(self, layer: int, inputs: Array, train: bool) -> Array:
        """The outputs of one hidden layer before any ablation, [N, width]."""
        outputs = self.dense[layer](inputs)
        if self.batch_norm:
            outputs = self.norm[layer](outputs, use_running_average=not train)
        outputs = ACTIVATIONS[self.activation](outputs)
        return self.dropout(outputs, deterministic=not train)

    def __call__(
        self, x: ArrayLike, ablation: Ablation | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "N C"], Float[Array, "N H"]]:
        """Runs the network.

        Args:
            x: float32 [N, ...] examples, flattened to [N, D].
            ablation: neurons to clamp; None leaves the network intact.
            train: use batch statistics and dropout, which then needs an rng named
                ``dropout``.

        Returns:
            Logits [N, C], and the outputs of all hidden neurons [N, H] as the next
            layer receives them: an ablated neuron's column is its clamp value.
        """
        x = jnp.asarray(x)
        outputs = self._layer(0, x.reshape(len(x), -1), train)
        return self.run_above(0, outputs, ablation, train=train)

    def run_above(
        self,
        layer: int,
        outputs: Float[Array, "N width"],
        ablation: Ablation | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "N C"], Float[Array, "N upper"]]:
        """Runs the network from the outputs of one hidden layer upwards.

        Args:
            layer: index of a hidden layer.
            outputs: its outputs in the intact network.
            ablation: as in ``__call__``, over all H neurons; neurons of lower layers
                are not used.
            train: as in ``__call__``.

        Returns:
            Logits [N, C], and the outputs of the hidden neurons from ``layer`` on.
        """
        activations = []
        for index in range(layer, self.num_layers):
            if index > layer:
                outputs = self._layer(index, outputs, train)
            outputs = self._ablated(index, outputs, ablation)
            activations.append(outputs)
        return self.dense[-1](outputs), jnp.concatenate(activations, axis=-1)

    def run_between(
        self,
        first: int,
        last: int,
        outputs: Float[Array, "N *inputs"],
        ablation: Ablation | None = None,
    ) -> Float[Array, "N width"]:
        """From the outputs of layer ``first``, or examples at -1, to those of ``last``.

        Layers from ``first`` on and below ``last`` are ablated.
        """
        if first < 0:
            outputs = outputs.reshape(len(outputs), -1)
        for index in range(first + 1, last + 1):
            if index > 0:
                outputs = self._ablated(index - 1, outputs, ablation)
            outputs = self._layer(index, outputs, train=False)
        return outputs

    def _ablated(self, layer: int, outputs: Array, ablation: Ablation | None) -> Array:
        if ablation is None:
            return outputs
        check_ablation(ablation, self.num_neurons)
        where = self.layer_slices[layer]
        keep, clamp = map(jnp.asarray, ablation)
        return jnp.where(keep[where], outputs, clamp[where])

    def prefix(
        self,
        variables: Any,
        x: ArrayLike,
        layer: int,
        ablation: Ablation | None = None,
    ) -> Values:
        """Runs up to a layer, as ``StagedNetwork``."""
        x = jnp.asarray(x)
        outputs = self.apply(variables, -1, layer, x, ablation, method="run_between")
        return Values(outputs, (), len(x))

    def advance(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> Values:
        """Runs from one layer to the next, as ``StagedNetwork``."""
        arguments = (layer, layer + 1, values.outputs, ablation)
        outputs = self.apply(variables, *arguments, method="run_between")
        return Values(outputs, (), values.num_examples)

    def above(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> tuple[Float[Array, "N C"], Float[Array, "N upper"]]:
        """Runs from a layer to the logits, as ``StagedNetwork``."""
        arguments = (layer, values.outputs, ablation)
        return self.apply(variables, *arguments, method="run_above")

    def is_affine_above(self, layer: int) -> bool:
        """Whether a layer is the last hidden one."""
        return layer == self.num_layers - 1


@functools.cache
def _shapes(model: MLP, num_inputs: int) -> dict[str, tuple[int, ...]]:
    """By name, the shapes of one network's variables."""
    return _named_shapes(
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, num_inputs)))
        )
    )


def _named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_variables(
    what: str,
    variables: Any,
    model: Network,
    num_networks: int | None = None,
    num_inputs: int | None = None,
) -> None:
    """Refuses variables that are not those of an MLP, or of so many of them.

    Networks of other kinds check their variables when they run.

    Args:
        what: what the caller calls them.
        variables: a pytree.
        model: the networks' shape.
        num_networks: S, with which leaves begin; None for the variables of one network.
        num_inputs: D, of the examples; None takes any.

    Raises:
        ValueError: a variable that is missing, not the network's, or of another shape.
    """
    if not isinstance(model, MLP):
        return
    given = _named_shapes(variables)
    if num_inputs is None:
        num_inputs = (1, 1, *given.get("params/dense_0/kernel", ()))[-2]
    leading = () if num_networks is None else (num_networks,)
    of_one = _shapes(model, num_inputs)  # pyright: ignore[reportArgumentType]
    expected = {name: (*leading, *shape) for name, shape in of_one.items()}
    if given == expected:
        return
    name = min(
        name
        for name in expected.keys() | given.keys()
        if given.get(name) != expected.get(name)
    )
    wanted, got = (
        f"shape {list(of[name])}" if name in of else "no such variable"
        for of in (expected, given)
    )
    widths = "-".join(map(str, (num_inputs, *model.hidden, model.num_classes)))
    number = f"{num_networks} networks" if leading else "one network"
    raise ValueError(
        f"{what}: expected the variables of {number} {widths} "
        f"{'with' if model.batch_norm else 'without'} batch norm, with {name} {wanted},"
        f" got {got}"
    )


def check_mlp(what: str, network: Network) -> MLP:
    """Refuses networks that are no chain of affine maps."""
    if isinstance(network, MLP):
        return network
    raise ValueError(
        f"{what}: needs affine layers in a row, as MLP has; this network is a "
        f"{type(network).__name__}"
    )


class Affine(NamedTuple):
    """One layer's map before the activation: ``outputs = inputs @ kernel + bias``."""

    kernel: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]


def folded_layers(model: MLP, variables: Any) -> tuple[Affine, ...]:
    """The network at inference as plain affine maps, batch norm folded into them.

    With running mean m, variance v, scale g and offset o, ``norm(x W + b)`` is
    ``x (W r) + (b - m) r + o`` where ``r = g / sqrt(v + epsilon)``.

    Args:
        model: the network's shape.
        variables: the variables of one network, without a seed axis.

    Returns:
        L+1 maps, the last to the logits.
    """
    layers = []
    for index in range(model.num_layers + 1):
        kernel, bias = (
            variables["params"][f"dense_{index}"][name] for name in ("kernel", "bias")
        )
        if model.batch_norm and index < model.num_layers:
            norm = variables["params"][f"norm_{index}"]
            running = variables["batch_stats"][f"norm_{index}"]
            ratio = norm["scale"] * jax.lax.rsqrt(running["var"] + BATCH_NORM_EPSILON)
            kernel = kernel * ratio
            bias = (bias - running["mean"]) * ratio + norm["bias"]
        layers.append(Affine(kernel, bias))
    return tuple(layers)


def activate(model: MLP, inputs: Array) -> Array:
    """The activation function of a network.

    Args:
        model: the network's shape.
        inputs: pre-activations, any shape.

    Returns:
        Outputs of the same shape.
    """
    return ACTIVATIONS[model.activation](inputs)


def multiply(model: MLP, a: Array, b: Array) -> Array:
    """A matrix product in a network's precision.

    Args:
        model: the network's shape.
        a: [..., v, w].
        b: [..., w, n].

    Returns:
        [..., v, n].
    """
    return jnp.matmul(a, b, precision=model.matmul_precision)


def pre_activations(
    model: MLP, layer: Affine, outputs: Float[Array, "*batch inputs n"]
) -> Float[Array, "*batch outputs n"]:
    """One layer's map, feature-major.

    Args:
        model: the network's shape.
        layer: the map.
        outputs: of the layer below, a column for each example.

    Returns:
        Pre-activations, or logits.
    """
    return multiply(model, layer.kernel.T, outputs) + layer.bias[:, None]

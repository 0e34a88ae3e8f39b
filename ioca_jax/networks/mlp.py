"""The fully-connected classifier, and its layers as affine maps.

The engines that run many ablations at once compute with the affine maps themselves;
batch norm at inference is folded into them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ioca_jax.networks.layered import (
    ACTIVATIONS,
    BATCH_NORM_EPSILON,
    LayeredNetwork,
    checked_widths,
)
from ioca_jax.networks.network import Layer, Network


class MLP(LayeredNetwork):
    """A fully-connected classifier with ablation as an argument.

    Attributes:
        hidden: widths of the hidden layers, first layer first.
        num_classes: C, the number of logits, at least 2.
        activation: ``relu``, ``sigmoid``, ``tanh``, ``gelu`` (the form with tanh, the
            default of JAX) or ``gelu_exact`` (with the normal distribution function,
            the default of PyTorch).
        dropout_rate: share of hidden outputs dropped in training, in [0, 1).
        batch_norm: normalise pre-activations; running statistics outside training.
        matmul_precision: of every matrix product, forwards and backwards: ``highest``
            is float32 on every backend, ``default`` is the backend's own (TF32 on some
            GPUs).

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> logits, activations = model.apply(variables, x)
        >>> logits.shape, activations.shape, model.layer_of_neuron.tolist()
        ((40, 2), (40, 5), [0, 0, 0, 1, 1])
    """

    hidden: Sequence[int]
    num_classes: int
    activation: str = "relu"
    dropout_rate: float = 0.0
    batch_norm: bool = False
    matmul_precision: str = "highest"

    def __post_init__(self):
        """Checks the fields; widths become a tuple, so that networks hash."""
        self.hidden = checked_widths("hidden", self.hidden)
        self._check_fields()
        super().__post_init__()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The hidden layers, ``layer_1`` the first."""
        return tuple(
            Layer(f"layer_{number}", width)
            for number, width in enumerate(self.hidden, 1)
        )

    def setup(self):
        """Names the layers: ``dense_0`` ... ``dense_L`` and ``norm_0`` ..."""
        self.dense = [
            nn.Dense(width, precision=self.matmul_precision)
            for width in (*self.hidden, self.num_classes)
        ]
        self.norm = self._norms()
        self.dropout = nn.Dropout(self.dropout_rate)

    def num_inputs(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The size of an example, by the shapes of the network's variables."""
        return (1, 1, *shapes.get("params/dense_0/kernel", ()))[-2]

    def widths(self, num_inputs: int) -> str:
        """The sizes from the inputs to the logits, such as 784-100-100-10."""
        return "-".join(map(str, (num_inputs, *self.hidden, self.num_classes)))

    def _examples(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return x.reshape(len(x), -1)

    def _affine(self, layer: int, inputs: Array) -> Array:
        return self.dense[layer](inputs)


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
    Of one network; L+1 maps, the last to the logits.
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
    """The activation function of a network, of pre-activations of any shape."""
    return ACTIVATIONS[model.activation](inputs)


def multiply(model: MLP, a: Array, b: Array) -> Array:
    """A matrix product in a network's precision."""
    return jnp.matmul(a, b, precision=model.matmul_precision)


def pre_activations(
    model: MLP, layer: Affine, outputs: Float[Array, "*batch inputs n"]
) -> Float[Array, "*batch outputs n"]:
    """One layer's pre-activations, or logits, a column for each example."""
    return multiply(model, layer.kernel.T, outputs) + layer.bias[:, None]

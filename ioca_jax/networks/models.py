"""The classifiers that this library trains: fully-connected and convolutional.

Both are short Flax modules that take an ablation as an argument: an ablated neuron
outputs its clamp, and ``vmap`` over ablations evaluates many. A hidden layer is an
affine map, then batch norm if asked for, then the activation, then dropout (in training
only), then the ablation. Everything else, engines and measures, takes the ``Network``
that tracing them gives (``as_network``).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ioca_jax.checks import (
    as_examples,
    as_tuple,
    check_clamp,
    check_flag,
    check_keep,
    check_num_classes,
    check_number,
    named_arrays,
    nearest,
)
from ioca_jax.networks.layers import (
    Ablation,
    Layer,
    count_neurons,
    neuron_layers,
    slices_of,
)
from ioca_jax.networks.network import Network
from ioca_jax.networks.pooling import Pooling
from ioca_jax.networks.tracing import trace_model

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "gelu": nn.gelu,  # by tanh, the default of JAX
    "gelu_exact": functools.partial(nn.gelu, approximate=False),  # that of PyTorch
}
PRECISIONS = ("highest", "high", "default")
BATCH_NORM_EPSILON = 1e-5
_MEAN = Pooling("mean")  # of a channel over its pixels


class Model(nn.Module):
    """What ``MLP`` and ``CNN`` share; they define the layers."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the fields of MLP and CNN

        # Flax declares a union here that fits no network in particular
        def apply(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102

    def _check_fields(self) -> None:
        check_num_classes(self.num_classes)
        for name, known in (
            ("activation", tuple(ACTIVATIONS)),
            ("matmul_precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, got "
                    f"{getattr(self, name)!r}{nearest([getattr(self, name)], known)}"
                )
        check_flag("batch_norm", self.batch_norm)
        check_number("dropout_rate", self.dropout_rate)
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(
                f"dropout_rate: expected a share in [0, 1), got {self.dropout_rate}"
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The hidden layers, first layer first."""
        raise NotImplementedError

    @property
    def num_neurons(self) -> int:
        """H, the number of hidden neurons in all layers."""
        return count_neurons(self.layers)

    @property
    def num_layers(self) -> int:
        """L, the number of hidden layers."""
        return len(self.layers)

    @property
    def layer_of_neuron(self) -> np.ndarray:
        """int32 [H]: the hidden layer of each neuron, counted from 0."""
        return neuron_layers(self.layers)

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each hidden layer lies on the neuron axis."""
        return slices_of(self.layers)

    def widths(self, num_inputs: int) -> str:
        """The sizes from the inputs to the logits, such as 784-100-100-10."""
        raise NotImplementedError

    def describe(self, num_inputs: int) -> str:
        """The network in a few words, for examples of that size."""
        parts = [self.widths(num_inputs), self.activation]
        if self.dropout_rate:
            parts.append(f"dropout {self.dropout_rate:g}")
        if self.batch_norm:
            parts.append("batch norm")
        return " ".join(parts)

    def _examples(self, x: ArrayLike) -> Array:
        """Examples as the first layer takes them."""
        raise NotImplementedError

    def _affine(self, layer: int, inputs: Array) -> Array:
        """A layer's map before batch norm; layer L gives the logits."""
        raise NotImplementedError

    def _norms(self) -> list[nn.BatchNorm]:
        """For ``setup``: a batch norm for each hidden layer, if asked for."""
        norms = [nn.BatchNorm(epsilon=BATCH_NORM_EPSILON) for _ in self.layers]
        return norms if self.batch_norm else []

    def _layer(self, layer: int, inputs: Array, train: bool) -> Array:
        """The outputs of one hidden layer before any ablation, [N, *layer.shape]."""
        outputs = self._affine(layer, inputs)
        if self.batch_norm:
            outputs = self.norm[layer](outputs, use_running_average=not train)
        outputs = ACTIVATIONS[self.activation](outputs)
        return self.dropout(outputs, deterministic=not train)

    def __call__(
        self, x: ArrayLike, ablation: Ablation | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "N C"], Float[Array, "N H"]]:
        """Runs the network.

        Args:
            x: float32 [N, ...] examples.
            ablation: neurons to clamp; None leaves the network intact.
            train: use batch statistics and dropout, which then needs an rng named
                ``dropout``.

        Returns:
            Logits [N, C], and the outputs of all hidden neurons [N, H] as the next
            layer receives them: an ablated neuron's column is its clamp value. A
            channel's output is its mean over positions.
        """
        outputs, activations = self._examples(x), []
        for index, layer in enumerate(self.layers):
            outputs = self._layer(index, outputs, train)
            outputs = self._ablated(index, outputs, ablation)
            is_flat = outputs.ndim == 2
            pooled = outputs if is_flat else _MEAN.measured(layer, outputs, None)
            activations.append(pooled)
        logits = self._affine(self.num_layers, outputs)
        return logits, jnp.concatenate(activations, axis=-1)

    def _ablated(self, layer: int, outputs: Array, ablation: Ablation | None) -> Array:
        if ablation is None:
            return outputs
        _check_ablation(ablation, self.num_neurons)
        where, keep = self.layer_slices[layer], jnp.asarray(ablation.keep)
        clamp = jnp.broadcast_to(jnp.asarray(ablation.clamp), keep.shape)
        return jnp.where(keep[where], outputs, clamp[where])


_MOST_NEURONS = 2**31 - 1


def checked_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Widths as a tuple of integers; refuses others."""
    given = as_tuple(name, widths)
    if not given or any(
        not isinstance(width, (int, np.integer)) or width < 1 for width in given
    ):
        raise ValueError(
            f"{name}: expected one or more widths, each a positive integer, got "
            f"{list(given)}"
        )
    if sum(map(int, given)) > _MOST_NEURONS:
        raise ValueError(
            f"{name}: expected at most {_MOST_NEURONS} in all, which int32 numbers, "
            f"got {sum(map(int, given))}"
        )
    return tuple(int(width) for width in given)


class MLP(Model):
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

    def widths(self, num_inputs: int) -> str:
        """The sizes from the inputs to the logits, such as 784-100-100-10."""
        return "-".join(map(str, (num_inputs, *self.hidden, self.num_classes)))

    def _examples(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return x.reshape(len(x), -1)

    def _affine(self, layer: int, inputs: Array) -> Array:
        return self.dense[layer](inputs)


class CNN(Model):
    """A convolutional classifier with ablation as an argument.

    A convolution is 3 x 3, at stride 1, padded so that it keeps the size of the image.
    The mean over 2 x 2 pixels stands between its outputs and the next layer's inputs.
    With channels 32 and 64 and a hidden layer of 256 this is the network of Flax's
    MNIST example. A neuron of a convolution is a channel; ablated, it outputs its clamp
    at every pixel.

    Attributes:
        channels: of the convolutions, first layer first.
        hidden: widths of the dense hidden layers after them; may be empty.
        num_classes: C, the number of logits, at least 2.
        image_shape: of an example: height, width, and number of colours.
        activation: ``relu``, ``sigmoid``, ``tanh``, ``gelu`` (the form with tanh, the
            default of JAX) or ``gelu_exact`` (with the normal distribution function,
            the default of PyTorch).
        dropout_rate: share of hidden outputs dropped in training, in [0, 1).
        batch_norm: normalise pre-activations; running statistics outside training.
        matmul_precision: of every product and convolution, as in ``MLP``.

    Example:
        >>> import ioca_jax as ioca
        >>> model = ioca.CNN(channels=(4, 8), hidden=(16,), num_classes=10)
        >>> [(layer.name, layer.num_neurons) for layer in model.layers]
        [('conv_1', 4), ('conv_2', 8), ('dense_1', 16)]
    """

    channels: Sequence[int]
    hidden: Sequence[int]
    num_classes: int
    image_shape: Sequence[int] = (28, 28, 1)
    activation: str = "relu"
    dropout_rate: float = 0.0
    batch_norm: bool = False
    matmul_precision: str = "highest"

    def __post_init__(self):
        """Checks the fields; sequences become tuples, so that networks hash."""
        self.channels = checked_widths("channels", self.channels)
        if len(self.hidden):
            self.hidden = checked_widths("hidden", self.hidden)
        self.hidden = tuple(self.hidden)
        self.image_shape = checked_widths("image_shape", self.image_shape)
        if len(self.image_shape) != 3:
            raise ValueError(
                "image_shape: expected height, width and number of colours, got "
                f"{list(self.image_shape)}"
            )
        if min(self.image_shape[:2]) < 2 ** len(self.channels):
            raise ValueError(
                f"image_shape: expected at least {2 ** len(self.channels)} pixels in "
                f"height and width, halved after each of {len(self.channels)} "
                f"convolutions, got {list(self.image_shape)}"
            )
        self._check_fields()
        super().__post_init__()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The hidden layers: ``conv_1``, ..., then ``dense_1``, ..."""
        height, width, _ = self.image_shape
        convolutions = [
            Layer(f"conv_{i + 1}", number, "conv", (height >> i, width >> i))
            for i, number in enumerate(self.channels)
        ]
        dense = [Layer(f"dense_{i}", width) for i, width in enumerate(self.hidden, 1)]
        return (*convolutions, *dense)

    def setup(self):
        """Names the layers: ``conv_0``, ..., ``dense_0``, ... and ``norm_0``, ..."""
        self.conv = [
            nn.Conv(number, (3, 3), precision=self.matmul_precision)
            for number in self.channels
        ]
        self.dense = [
            nn.Dense(width, precision=self.matmul_precision)
            for width in (*self.hidden, self.num_classes)
        ]
        self.norm = self._norms()
        self.dropout = nn.Dropout(self.dropout_rate)

    def widths(self, num_inputs: int) -> str:
        """The sizes from the image to the logits, such as 28x28x1-c32-c64-256-10."""
        image = "x".join(map(str, self.image_shape))
        convolutions = [f"c{number}" for number in self.channels]
        return "-".join(
            map(str, (image, *convolutions, *self.hidden, self.num_classes))
        )

    def _examples(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        if math.prod(x.shape[1:]) != math.prod(self.image_shape):
            raise ValueError(
                f"x: expected examples of shape {list(self.image_shape)}, got "
                f"{list(x.shape[1:])}"
            )
        return x.reshape(len(x), *self.image_shape)

    def _affine(self, layer: int, inputs: Array) -> Array:
        number = len(self.channels)
        if 0 < layer <= number:
            inputs = nn.avg_pool(inputs, (2, 2), strides=(2, 2))
        if layer < number:
            return self.conv[layer](inputs)
        return self.dense[layer - number](inputs.reshape(len(inputs), -1))


def _check_ablation(ablation: Ablation, num_neurons: int) -> None:
    """Refuses what is no ablation of one network; NaN may stand at kept neurons."""
    keep: Any = ablation.keep
    clamp: Any = ablation.clamp
    check_keep(keep, num_neurons)
    check_clamp(clamp, num_neurons, kept=keep)
    for name, array in (("keep", keep), ("clamp", clamp)):
        if jnp.ndim(array) > 1:
            raise ValueError(
                f"{name}: expected shape [{num_neurons}], got {list(jnp.shape(array))};"
                " vmap over ablations, or evaluate_masks, takes many"
            )


def as_network(model: Any, x: Any) -> Network:
    """The network of a model for some examples; another network stays itself.

    It is made once for each model and shape of examples.

    Args:
        model: an ``MLP`` or ``CNN``, or a network of ``trace_network``.
        x: [N, ...] examples, or their shape and type.

    Returns:
        The network.

    Raises:
        ValueError: anything else than a network, or examples that do not fit.
    """
    if isinstance(model, Network):
        return model
    if not isinstance(model, Model):
        raise ValueError(
            "network: expected an MLP, a CNN or a network of trace_network, got a "
            f"{type(model).__name__}"
        )
    if not hasattr(x, "dtype"):
        x = as_examples("x", x)
    if not hasattr(x, "dtype"):
        names = [name for name, _ in named_arrays("x", x)]
        raise ValueError(
            f"x: expected one array, as an MLP or CNN takes, got {', '.join(names)}; "
            "trace_network takes a function of several"
        )
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    return _traced(model, tuple(x.shape[1:]), dtype)  # pyright: ignore[reportArgumentType]


@functools.lru_cache(maxsize=256)
def _traced(model: Model, shape: tuple[int, ...], dtype: Any) -> Network:
    def apply(variables: Any, x: Array) -> Array:
        return model.apply(variables, x.astype(jnp.float32))[0]

    x = jax.ShapeDtypeStruct((1, *shape), dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    inputs = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    variables = jax.eval_shape(model.init, key, inputs)
    return trace_model(model, apply, variables, x)

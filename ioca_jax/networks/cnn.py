"""A convolutional classifier: convolutions, each with pooling, then dense layers.

A convolution is 3 x 3, at stride 1, padded so that it keeps the size of the image. The
mean over 2 x 2 pixels stands between its outputs and the next layer's inputs. With
channels 32 and 64 and a hidden layer of 256 this is the network of Flax's MNIST
example. A neuron of a convolution is a channel; ablated, it outputs its clamp at every
pixel.
"""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array

from ioca_jax.networks.layered import LayeredNetwork, checked_widths
from ioca_jax.networks.network import Layer


class CNN(LayeredNetwork):
    """A convolutional classifier with ablation as an argument.

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

    def num_inputs(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The size of an example."""
        return math.prod(self.image_shape)

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

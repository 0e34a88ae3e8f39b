"""The network of Flax's MNIST tutorial (flax.readthedocs.io), as written there.

Two convolutions with batch norm, dropout and average pooling, then two dense layers. It
contains nothing of this library.
"""

from functools import partial

from flax import nnx


class CNN(nnx.Module):
    """A convolutional classifier of 28 by 28 images."""

    def __init__(self, *, rngs: nnx.Rngs):  # noqa: D107
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(3136, 256, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        """Images [N, 28, 28, 1] to logits [N, 10]."""
        x = self.batch_norm1(self.dropout1(self.conv1(x), rngs=rngs))
        x = self.avg_pool(nnx.relu(x))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.dropout2(self.linear1(x), rngs=rngs))
        return self.linear2(x)

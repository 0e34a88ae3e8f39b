"""What the built-in networks have in common: hidden layers in a row.

A hidden layer is an affine map, then batch norm if asked for, then the activation, then
dropout (in training only), then the ablation: an ablated neuron outputs its clamp.
Every network returns its logits and the outputs of *all* hidden neurons, so that
nothing has to be hooked: what a caller does not use, ``jit`` removes. An ablation is an
argument, not a change of the network: ``vmap`` over ablations evaluates many.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ioca_jax.checks import (
    as_tuple,
    check_flag,
    check_num_classes,
    check_number,
)
from ioca_jax.networks.network import (
    Ablation,
    Layer,
    Network,
    Values,
    check_ablation,
    count_neurons,
    neuron_layers,
    pool_activations,
    slices_of,
)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "gelu": nn.gelu,  # by tanh, the default of JAX
    "gelu_exact": functools.partial(nn.gelu, approximate=False),  # that of PyTorch
}
PRECISIONS = ("highest", "high", "default")
BATCH_NORM_EPSILON = 1e-5


class LayeredNetwork(nn.Module):
    """A ``StagedNetwork`` that trains; ``MLP`` and ``CNN`` define its layers."""

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
                    f"{getattr(self, name)!r}"
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

    def num_inputs(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The size of an example, by the shapes of the network's variables."""
        raise NotImplementedError

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
        outputs = self._layer(0, self._examples(x), train)
        return self.run_above(0, outputs, ablation, train=train)

    def run_above(
        self,
        layer: int,
        outputs: Float[Array, "N ..."],
        ablation: Ablation | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "N C"], Float[Array, "N upper"]]:
        """From the outputs of one hidden layer in the intact network to the logits.

        Neurons of lower layers are not ablated and not returned.
        """
        activations = []
        for index in range(layer, self.num_layers):
            if index > layer:
                outputs = self._layer(index, outputs, train)
            outputs = self._ablated(index, outputs, ablation)
            flat = outputs.ndim == 2
            of_layer = self.layers[index]
            activations.append(
                outputs if flat else pool_activations(of_layer, outputs, "mean")
            )
        logits = self._affine(self.num_layers, outputs)
        return logits, jnp.concatenate(activations, axis=-1)

    def run_between(
        self,
        first: int,
        last: int,
        outputs: Float[Array, "N ..."],
        ablation: Ablation | None = None,
    ) -> Float[Array, "N ..."]:
        """From the outputs of layer ``first``, or examples at -1, to those of ``last``.

        Layers from ``first`` on and below ``last`` are ablated.
        """
        if first < 0:
            outputs = self._examples(outputs)
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


@functools.cache
def variable_shapes(
    network: LayeredNetwork, num_inputs: int
) -> dict[str, tuple[int, ...]]:
    """By path, the shapes of one network's variables."""
    key, x = jax.random.key(0), jnp.zeros((1, num_inputs))
    return _named_shapes(jax.eval_shape(lambda: network.init(key, x)))


def _named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def check_variables(
    what: str,
    variables: Any,
    network: Network,
    num_networks: int | None = None,
    num_inputs: int | None = None,
) -> None:
    """Refuses variables that are not those of a built-in network.

    Traced networks check their variables when they run. With ``num_networks`` leaves
    begin with S; without ``num_inputs``, the size of an example, any is taken.
    """
    if not isinstance(network, LayeredNetwork):
        return
    given = _named_shapes(variables)
    if num_inputs is None:
        num_inputs = network.num_inputs(given)
    leading = () if num_networks is None else (num_networks,)
    of_one = variable_shapes(network, num_inputs)  # pyright: ignore[reportArgumentType]
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
    number = f"{num_networks} networks" if leading else "one network"
    raise ValueError(
        f"{what}: expected the variables of {number} {network.widths(num_inputs)} "
        f"{'with' if network.batch_norm else 'without'} batch norm, with {name} "
        f"{wanted}, got {got}"
    )

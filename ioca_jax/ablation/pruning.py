"""Pruning: an ablation made permanent, as a smaller network.

An ablated neuron outputs a constant, so it can be removed: what the next layer would
have received from it is a constant too, ``clamp[j] * kernel[j]``, and goes into that
layer's bias. With the mean as the clamp that is the paper's "bias balancing" (Amjad,
Liu, Geiger, arXiv 1804.06679); with zeros no bias changes. The smaller network gives
the logits of the ablated one, to the rounding of float32 sums in another order.

Batch norm is kept, not folded away, so that the smaller network trains as the larger
one did: the constant goes into the bias before the norm, and the removed neurons' own
parameters and running statistics go with them. Those statistics are the intact
network's: at inference that is exact, and further training moves them.

A removed neuron stays removed: training the smaller network adapts the folded constants
as biases, where in an ablated network the clamp would stay.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from ioca_jax.ablation.orderings import order_neurons
from ioca_jax.checks import check_clamp
from ioca_jax.networks.models import MLP, as_network


def prune(
    model: MLP,
    variables: Any,
    keep: Bool[ArrayLike, " H"],
    clamp: Float[ArrayLike, " H"],
) -> tuple[MLP, Any]:
    """Removes neurons from a network.

    Args:
        model: the network's shape.
        variables: the variables of one network.
        keep: bool [H]; False removes. Its values must be known: not traced.
        clamp: float32 [H]; the constant output that a removed neuron leaves behind.
            Values at kept neurons are not used.

    Returns:
        The smaller network's shape, all else as in ``model``, and its variables. It
        gives the logits of ``model`` under ``Ablation(keep, clamp)``.

    Raises:
        ValueError: a layer that would be empty, arrays of another shape than [H], a
            ``keep`` that is traced or not boolean, NaN in the clamp, or variables of
            another network.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> from ioca_jax.ablation.pruning import prune
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
        >>> keep = jnp.array([True, False, True, True, True])
        >>> smaller, pruned = prune(model, variables, keep, jnp.zeros(5))
        >>> smaller.hidden
        (2, 2)
    """
    _check_variables(model, variables)
    keep = _known(keep)
    for name, array in (("keep", keep), ("clamp", clamp)):
        _check_shape(name, array, (model.num_neurons,))
    smaller, pruned = prune_networks(
        model,
        jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], variables),
        keep[None],
        jnp.asarray(clamp)[None],
    )
    return smaller, jax.tree.map(lambda leaf: leaf[0], pruned)


def prune_networks(
    model: MLP,
    variables: Any,
    keep: Bool[ArrayLike, "S H"],
    clamp: Float[ArrayLike, "S H"],
) -> tuple[MLP, Any]:
    """Removes neurons from many networks, in each its own but equally many.

    Compiles anew for other numbers of neurons kept, not for other neurons.

    Args:
        model: the networks' shape.
        variables: the networks' variables; leaves begin with S.
        keep: bool [S, H], as in ``prune``; in every layer, all networks keep the same
            number.
        clamp: float32 [S, H], as in ``prune``.

    Returns:
        The smaller networks' shape and their variables; leaves begin with S.

    Raises:
        ValueError: networks that keep different numbers, or as ``prune``.
    """
    keep = _known(keep)
    num_networks = len(keep) if keep.ndim == 2 else 0
    for name, array in (("keep", keep), ("clamp", clamp)):
        _check_shape(name, array, (num_networks or "S", model.num_neurons))
    check_clamp(clamp, model.num_neurons, kept=keep)
    _check_variables(model, variables, num_networks)
    sizes = _common_sizes(model, keep)
    kept = tuple(  # the neurons kept of each layer, in their order
        np.argsort(~keep[:, where], axis=1, kind="stable")[:, :size].astype(np.int32)
        for where, size in zip(model.layer_slices, sizes, strict=True)
    )
    smaller = model.clone(hidden=sizes)
    clamp = jnp.asarray(clamp, jnp.float32)
    return smaller, _without_the_others(model, variables, keep, clamp, kept)


def kept_by_score(
    model: MLP,
    scores: Float[ArrayLike, "S H"],
    sizes: Sequence[int],
    *,
    key: Array,
) -> Bool[Array, "S H"]:
    """Keeps the neurons of greatest score, so many of each layer.

    Layers are not compared with each other: a measure's level differs between them.

    Args:
        model: the networks' shape.
        scores: float32 [S, H].
        sizes: L numbers of neurons to keep, each from 1 to the layer's width.
        key: breaks ties at random: one key, of which each network gets its own, or [S]
            keys.

    Returns:
        bool [S, H]; True keeps. Smaller sizes keep a part of what greater ones do.

    Raises:
        ValueError: sizes out of range, scores of another shape, or a score that is NaN.
    """
    if jnp.ndim(scores) != 2 or jnp.shape(scores)[1] != model.num_neurons:
        _check_shape("scores", scores, ("S", model.num_neurons))
    sizes = tuple(sizes)
    if len(sizes) != model.num_layers or any(
        not isinstance(size, (int, np.integer)) or not 1 <= size <= width
        for size, width in zip(sizes, model.hidden, strict=True)
    ):
        raise ValueError(
            f"sizes: expected for each of {model.num_layers} layers how many neurons "
            f"to keep, from 1 (an empty layer lets nothing through) to its width out "
            f"of {list(model.hidden)}, got {list(sizes)}"
        )
    scores = jnp.asarray(scores)
    if not isinstance(scores, Tracer) and bool(jnp.isnan(scores).any()):
        raise ValueError(
            f"scores: expected numbers, got NaN for {int(jnp.isnan(scores).sum())} of "
            f"{scores.size} neurons; leave out networks that diverged"
        )
    if not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim):
        key = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(scores)))
    return _first_of_every_layer(model, scores, jnp.asarray(sizes, jnp.int32), key)


def num_parameters(model: MLP, num_inputs: int) -> int:
    """Counts what training adapts: kernels, biases, batch norm's scales and offsets.

    Args:
        model: the network's shape.
        num_inputs: D.

    Returns:
        The number, without batch norm's running statistics.
    """
    widths = (num_inputs, *model.hidden, model.num_classes)
    pairs = zip(widths[:-1], widths[1:], strict=True)
    dense = sum((below + 1) * above for below, above in pairs)
    return dense + 2 * model.num_neurons * model.batch_norm


@partial(jax.jit, static_argnames="model")
def _without_the_others(model, variables, keep, clamp, kept):
    """The variables of every network with only the neurons listed, by layer."""

    def of_network(variables, keep, clamp, kept: tuple[Int[Array, " size"], ...]):
        pruned = {collection: {} for collection in variables}
        constant = jnp.where(keep, 0, clamp)
        for layer in range(model.num_layers + 1):
            name = f"dense_{layer}"
            kernel, bias = (variables["params"][name][n] for n in ("kernel", "bias"))
            if layer > 0:
                below = constant[model.layer_slices[layer - 1]]
                bias = bias + jnp.matmul(below, kernel, precision="highest")
                kernel = kernel[kept[layer - 1]]
            if layer < model.num_layers:
                kernel, bias = kernel[:, kept[layer]], bias[kept[layer]]
            pruned["params"][name] = {"kernel": kernel, "bias": bias}
            if model.batch_norm and layer < model.num_layers:
                name = f"norm_{layer}"
                for collection, layers in variables.items():
                    pruned[collection][name] = {
                        what: values[kept[layer]]
                        for what, values in layers[name].items()
                    }
        return pruned

    return jax.vmap(of_network)(variables, keep, clamp, kept)


@partial(jax.jit, static_argnames="model")
def _first_of_every_layer(model, scores, sizes, keys):
    """``kept_by_score``; sizes are traced, so one program serves all of them."""

    def of_network(scores, key):
        keep = []
        for layer, where in enumerate(model.layer_slices):
            own_key = jax.random.fold_in(key, layer)
            order = order_neurons(scores[where], None, "descending", key=own_key)
            keep.append(jnp.argsort(order) < sizes[layer])
        return jnp.concatenate(keep)

    return jax.vmap(of_network)(scores, keys)


def _check_variables(model: MLP, variables: Any, number: int | None = None) -> None:
    kernel = variables["params"]["dense_0"]["kernel"]
    x = jax.ShapeDtypeStruct((1, jnp.shape(kernel)[-2]), jnp.float32)
    as_network(model, x).check_variables(variables, number)


def _known(keep: ArrayLike) -> np.ndarray:
    """What to keep as booleans whose values are known."""
    if isinstance(keep, Tracer):
        raise ValueError(
            "keep: expected values that are known, as they decide the smaller "
            "network's shape, got a traced array; prune outside of jit and vmap "
            "(prune_networks takes many networks at once)"
        )
    keep = np.asarray(keep)
    if keep.dtype != bool:
        raise ValueError(f"keep: expected bool, True for what stays, got {keep.dtype}")
    return keep


def _check_shape(name: str, array: ArrayLike, expected: tuple[int | str, ...]) -> None:
    shape = jnp.shape(array)
    if shape != expected:
        axes = ", ".join(str(size) for size in expected)
        raise ValueError(
            f"{name}: expected shape [{axes}], a value for each hidden neuron, got "
            f"{list(shape)}"
        )


def _common_sizes(model: MLP, keep: np.ndarray) -> tuple[int, ...]:
    """How many neurons every network keeps of each layer; refuses none."""
    sizes = []
    for layer, where in enumerate(model.layer_slices, 1):
        counts = keep[:, where].sum(axis=1)
        width, least = model.hidden[layer - 1], counts.argmin()
        of_which = f" in network {least}" if len(keep) > 1 else ""
        if not counts[least]:
            raise ValueError(
                f"keep: expected at least one neuron kept in every layer, got 0 of "
                f"{width} in hidden layer {layer}{of_which}; keep one or more there, "
                "or ablate the layer instead of pruning it"
            )
        if counts.max() > counts[least]:
            most = counts.argmax()
            raise ValueError(
                "keep: expected all networks to keep the same number of neurons in a "
                f"layer, got {counts[least]} and {counts[most]} of {width} in hidden "
                f"layer {layer} (networks {least} and {most}); prune networks of "
                "different sizes in calls of their own"
            )
        sizes.append(int(counts[least]))
    return tuple(sizes)

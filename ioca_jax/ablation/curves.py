"""Ablation curves: accuracy and loss while neurons are ablated one after another.

Four engines give the same figures: ``rank_one`` (CPUs) and ``prefix_sums``
(accelerators), which compute a curve from one forward pass where the network is a chain
of affine maps from the lowest ablated layer on (``Network.chain``); ``incremental``,
which recomputes only what lies above a neuron, in any network; and ``masks``, the
reference that runs a network once for each mask. All stream over chunks of examples,
bound their memory by a budget, and spread the examples over this host's devices, or
over the cores where a CPU is one device: nothing need be set.

A prediction is the first greatest logit. Equal logits are decided alike by every engine
and for every budget where they are equal exactly, as where all outputs of a layer are
0; logits that differ by no more than the rounding of their sums may be ordered either
way.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from ioca_jax.ablation.budget import device_budget
from ioca_jax.ablation.engines import curve_engine
from ioca_jax.ablation.evaluation import Evaluation
from ioca_jax.ablation.masks import MasksEngine, masks_engine
from ioca_jax.ablation.metrics import (
    ALWAYS,
    Batch,
    Metric,
    Sums,
    checked_scorer,
    make_evaluation,
)
from ioca_jax.ablation.orderings import checked_neurons
from ioca_jax.ablation.points import (
    Points,
    area_bound,
    bisect,
    chosen_steps,
    number_of_points,
)
from ioca_jax.ablation.replacement import (
    Constants,
    Resampled,
    constants_of,
    donors_rows,
)
from ioca_jax.checks import as_array, check_keep, is_known, number_counted
from ioca_jax.devices import examples_and_labels, sum_over_examples
from ioca_jax.host_arrays import host_view, module_of
from ioca_jax.networks.inputs import check_converged, checked_network
from ioca_jax.networks.models import Model
from ioca_jax.networks.network import Network


def evaluate_masks(
    model: Network | Model,
    variables: Any,
    masks: Bool[ArrayLike, "*masks H"],
    clamp: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    *,
    metrics: Sequence[str | Metric | Callable] = ALWAYS,
    groups: Mapping[str, ArrayLike] | None = None,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates a network under each of many masks.

    Args:
        model: the network, ``MLP`` or any that ``trace_network`` found.
        variables: the variables of one network (``vmap`` for several).
        masks: bool [..., H]; True keeps a neuron, False ablates it.
        clamp: what ablated neurons output: one number; float32 [..., H], or [..., P]
            with one for each number that a neuron outputs, broadcast against ``masks``;
            by layers' names such arrays of each layer; or what ``resample`` returns.
        x: float32 [N, ...] examples, or a pytree of arrays that begin with N.
        y: int32 [N] classes; [N, T] where the network has logits for each token, -1
            for those that do not count.
        metrics: what to average over examples beside accuracy and loss, which are
            always there: ``kl`` (from the ablated network's output distribution to the
            intact network's, nats), ``agreement`` (share of predictions that are the
            intact network's), ``margin`` (logit of the class less the greatest other),
            ``brier`` (squared distance of the output distribution from the class),
            ``package.module:function``, a ``Metric``, or a function of logits [n, C],
            classes [n] and the intact network's logits [n, C] to numbers [n].
        groups: by name, integers [N] from 0, -1 for none: correct examples are counted
            for each value, as ``correct_by``.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The evaluation, with the leading axes of ``masks``.

    Raises:
        ValueError: arrays that do not fit the network or each other, masks that are not
            boolean, labels that are not classes, or NaN and infinities; variables of
            another network, or of one that diverged; unknown metrics, or a function
            that does not return a number for each example.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> masks = ~jnp.eye(5, dtype=bool)  # each neuron ablated alone
        >>> alone = ioca.evaluate_masks(model, variables, masks, jnp.zeros(5), x, y)
        >>> alone.accuracy.shape, alone.correct.shape
        ((5,), (5, 2))
    """
    network = checked_network(model, x, y)
    x, y = examples_and_labels(x, y)
    scorer, groups = checked_scorer(network.num_classes, metrics, groups, y)
    memory_gb = device_budget(memory_gb, y)
    check_keep(masks, network.num_neurons, name="masks")
    network.check_variables(variables)
    check_converged(variables)
    masks_shape = jnp.shape(masks)[:-1]
    if isinstance(clamp, Resampled):
        row = donors_rows(clamp, network, len(y), None)
        shape, replacement = masks_shape, clamp.without_rows()
    else:
        clamps = constants_of(network, clamp)
        shape = _broadcast_shapes("masks", masks_shape, clamps.shape[:-1])
        row, replacement = None, Constants(_flat(clamps, shape))
    lowest = _lowest_ablated_layer(network, masks)
    engine = masks_engine(network, lowest, scorer, len(y), memory_gb)
    arrays = (variables, _flat(host_view(as_array("masks", masks)), shape), replacement)
    batch = Batch(x, row, groups)
    sums = sum_over_examples(MasksEngine.masks, engine, arrays, batch, y)
    return make_evaluation(sums, shape, number_counted(y))


def ablation_curve(
    model: Network | Model,
    variables: Any,
    order: Int[ArrayLike, "*orders K"],
    clamp: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    *,
    points: Points = None,
    metrics: Sequence[str | Metric | Callable] = ALWAYS,
    groups: Mapping[str, ArrayLike] | None = None,
    layers: Sequence[int] | None = None,
    engine: str | None = None,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates a network while neurons are ablated one after another.

    Gives the figures of ``evaluate_masks`` for ``cumulative_masks(order)``.

    Args:
        model: the network, ``MLP`` or any that ``trace_network`` found.
        variables: the variables of one network (``ablation_curves`` takes several).
        order: int32 [K], or [..., K] for several curves, neuron indices.
        clamp: as in ``evaluate_masks``, broadcast against ``order``.
        x: as in ``evaluate_masks``.
        y: as in ``evaluate_masks``.
        points: after how many ablated neurons to evaluate: a number of points, evenly
            spaced with both ends; ascending steps from 0 to K; ``auto`` for points
            where the accuracy curves bend, until no area under one can be wrong by more
            than 0.01 (if it is monotone between points) nor moved by more than 0.004 in
            the last round, or there are 64; None for all of 0 to K. All curves have the
            same.
        metrics: as in ``evaluate_masks``.
        groups: as in ``evaluate_masks``.
        layers: the layers, counted from 0, that the orders touch. None looks at the
            orders; while they are traced, it takes all layers, which costs time.
        engine: one of ``ENGINES``: ``rank_one`` and ``prefix_sums`` for dense layers in
            a row, ``incremental``, or ``masks``, the slow reference. None takes the
            fastest.
        memory_gb: bounds what is held at once beside the arguments, about.

    Returns:
        The evaluation [..., K+1]: point k has the first k neurons ablated; with
        ``points``, [..., P] at ``steps``, and the ``bound`` on the areas.

    Raises:
        ValueError: an order that is empty or with indices out of range or twice, layers
            that do not hold it, points that do not ascend from 0 to K, an unknown
            engine, a budget that is not positive, or
            arrays and variables that ``evaluate_masks`` refuses. A traced order is
            looked at where the program runs: its curve is NaN, its counts are -1.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> order, clamp = jnp.array([3, 4, 0]), jnp.zeros(5)
        >>> curve = ioca.ablation_curve(model, variables, order, clamp, x, y)
        >>> curve.accuracy.shape  # after 0, 1, 2 and 3 ablated neurons
        (4,)
    """
    network = checked_network(model, x, y)
    network.check_variables(variables)
    check_converged(variables)
    if isinstance(clamp, Resampled):
        shape, clamp = jnp.shape(order), clamp.for_one_network()
    else:
        clamp = constants_of(network, clamp)
        leading = _broadcast_shapes("order", jnp.shape(order)[:-1], clamp.shape[:-1])
        shape = (*leading, 1)
        clamp = _with_axes(clamp, 1 + len(shape) - clamp.ndim)
    curves = _evaluated(
        network,
        jax.tree.map(_with_axes, variables),
        _with_axes(order, 1 + len(shape) - jnp.ndim(order)),
        clamp,
        x,
        y,
        points=points,
        metrics=metrics,
        groups=groups,
        layers=layers,
        engine=engine,
        memory_gb=memory_gb,
    )
    return curves._replace(shape=curves.shape[1:]).evaluation()


def ablation_curves(
    model: Network | Model,
    variables: Any,
    order: Int[ArrayLike, "S *orders K"],
    clamp: Any,
    x: Any,
    y: Int[ArrayLike, "N *T"],
    *,
    points: Points = None,
    metrics: Sequence[str | Metric | Callable] = ALWAYS,
    groups: Mapping[str, ArrayLike] | None = None,
    layers: Sequence[int] | None = None,
    engine: str | None = None,
    memory_gb: float = 1.0,
) -> Evaluation:
    """Evaluates many networks, each ablated in orders of its own, in one program.

    Args:
        model: the networks' shape, as in ``ablation_curve``.
        variables: the networks' variables; leaves begin with S.
        order: int32 [S, ..., K] neuron indices; [S, K] is one order for each network,
            under all its clamps.
        clamp: float32 [S, ..., H] or [S, ..., P]; [S, H] is one clamp for each network,
            for all its orders. Otherwise the axes between are those of ``order``, each
            equal or 1. One number, or what ``resample`` returns, with an axis S before
            ``donors`` and ``shift``, are for all networks.
        x: as in ``evaluate_masks``.
        y: as in ``evaluate_masks``.
        points: as in ``ablation_curve``.
        metrics: as in ``evaluate_masks``.
        groups: as in ``evaluate_masks``.
        layers: as in ``ablation_curve``.
        engine: as in ``ablation_curve``.
        memory_gb: as in ``ablation_curve``; it does not grow with S.

    Returns:
        The evaluation [S, ..., K+1]; [S, ..., P] with ``points``.

    Raises:
        ValueError: as ``ablation_curve``.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> keys = jax.random.split(jax.random.key(1), 3)
        >>> variables = jax.vmap(lambda key: model.init(key, x))(keys)  # three networks
        >>> orders, clamps = jnp.array([[0, 1], [2, 0], [4, 3]]), jnp.zeros((3, 5))
        >>> curves = ioca.ablation_curves(model, variables, orders, clamps, x, y)
        >>> curves.accuracy.shape
        (3, 3)
    """
    network = checked_network(model, x, y)
    curves = _evaluated(
        network,
        variables,
        order,
        clamp,
        x,
        y,
        points=points,
        metrics=metrics,
        groups=groups,
        layers=layers,
        engine=engine,
        memory_gb=memory_gb,
    )
    return curves.evaluation()


class _Curves(NamedTuple):
    """Sums [S, M, P, ...] over examples, at steps [P], of curves of a shape."""

    sums: Sums
    steps: np.ndarray
    shape: tuple[int, ...]
    num_examples: int
    is_part: bool

    def evaluation(self) -> Evaluation:
        """The evaluation [*shape, P], with a bound where steps are left out."""
        shape = (*self.shape, len(self.steps))
        found = make_evaluation(self.sums, shape, self.num_examples)
        found = dataclasses.replace(found, at=tuple(self.steps.tolist()))
        if not self.is_part:
            return found
        bound = area_bound(found.accuracy, self.steps).sum(axis=-1)
        return dataclasses.replace(found, bound=bound)


def _evaluated(
    network: Network,
    variables: Any,
    order: ArrayLike,
    clamp: Any,
    x: Any,
    y: ArrayLike,
    *,
    points: Points,
    metrics: Sequence[str | Metric | Callable],
    groups: Mapping[str, ArrayLike] | None,
    layers: Sequence[int] | None,
    engine: str | None,
    memory_gb: float,
) -> _Curves:
    """``ablation_curves`` of examples and labels that are checked."""
    x, y = examples_and_labels(x, y)
    scorer, groups = checked_scorer(network.num_classes, metrics, groups, y)
    memory_gb = device_budget(memory_gb, y)
    is_known_order = is_known(order)
    order = checked_neurons(order, network.num_neurons)
    if not order.size:
        raise ValueError(
            f"order: expected one or more neurons, got shape {list(order.shape)}; "
            "evaluate_masks takes masks that keep all"
        )
    layers, num_steps = _checked_layers(layers, network, order), order.shape[-1]
    orders, row, replacement, shape = _of_networks(network, order, clamp, y)
    network.check_variables(variables, len(orders))
    sizes = (network, variables, layers, scorer, x, num_steps, memory_gb)
    run = curve_engine(
        engine,
        *sizes,
        takes_constants=row is None,
        num_curves=orders.shape[1],
        num_points=number_of_points(points, num_steps),
    )
    networks, batch = (variables, orders, replacement), Batch(x, row, groups)

    def evaluate(steps: np.ndarray) -> Sums:
        arrays = networks, steps
        return sum_over_examples(type(run).orders, run, arrays, batch, y)

    if isinstance(points, str) and points == "auto":
        sums, steps = bisect(evaluate, num_steps, number_counted(y))
    else:
        steps = chosen_steps(points, num_steps)
        sums = evaluate(steps)
    if not is_known_order:
        sums = _without_numbers(sums, ~_are_orders(network, layers, orders))
    return _Curves(sums, steps, shape, number_counted(y), points is not None)


def _flat(array: Any, shape: tuple[int, ...]) -> Any:
    """An array with the leading axes ``shape``, as one axis."""
    size = array.shape[-1]
    return module_of(array).broadcast_to(array, (*shape, size)).reshape(-1, size)


def _of_networks(
    network: Network, order: Any, clamp: Any, y: Any
) -> tuple[Any, Array | None, Any, tuple[int, ...]]:
    """Orders [S, M, K], donors' rows, replacements, and the axes before K as given."""
    number, num_steps = len(order), order.shape[-1]
    if isinstance(clamp, Resampled):
        orders = order.reshape(number, -1, num_steps)
        row = donors_rows(clamp, network, len(y), number)
        return orders, row, clamp.without_rows(), order.shape[:-1]
    is_number = np.shape(clamp) == ()
    clamp = constants_of(network, clamp)
    if is_number:
        clamp = module_of(clamp).broadcast_to(clamp, (number, len(clamp)))
    between = [array.shape[1:-1] for array in (order, clamp)]
    fits = order.ndim > 1 and clamp.ndim > 1 and len(order) == len(clamp)
    fits &= not all(between) or len(between[0]) == len(between[1])
    if all(between):
        fits &= all(1 in {a, b} or a == b for a, b in zip(*between, strict=False))
    if not fits:
        raise ValueError(
            "order, clamp: expected [S, ..., K] and [S, ..., H], networks first and "
            "then the same axes, each equal or 1, or none in one of them, got shapes "
            f"{list(order.shape)} and {list(clamp.shape)}"
        )
    rank = max(order.ndim, clamp.ndim)
    order, clamp = (
        array.reshape(len(array), *[1] * (rank - array.ndim), *array.shape[1:])
        for array in (order, clamp)
    )
    shape = np.broadcast_shapes(order.shape[:-1], clamp.shape[:-1])
    orders, clamps = (
        _flat(array, shape).reshape(number, -1, array.shape[-1])
        for array in (order, clamp)
    )
    return orders, None, Constants(clamps), shape


def _are_orders(
    model: Network, layers: tuple[int, ...], orders: Int[Array, "*batch K"]
) -> Bool[Array, "*batch"]:
    """Whether each lists neurons of the layers, every one once."""
    ordered = jnp.sort(orders, axis=-1)
    repeats = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    allowed = jnp.asarray(np.isin(model.layer_of_neuron, layers))
    # Beyond either end there are no neurons; a negative index would count from the end.
    within = allowed.at[jnp.where(orders < 0, len(allowed), orders)].get(
        mode="fill", fill_value=False
    )
    return within.all(axis=-1) & ~repeats


def _without_numbers(sums: Sums, where: Bool[Array, "S M"]) -> Sums:
    """Sums with -1 and NaN for some of the curves."""

    def blank(leaf: Array) -> Array:
        here = where.reshape(*where.shape, *[1] * (leaf.ndim - where.ndim))
        is_count = jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.where(here, -1 if is_count else jnp.nan, leaf)

    return jax.tree.map(blank, sums)


def _lowest_ablated_layer(model: Network, masks: ArrayLike) -> int:
    """The first layer that a mask touches; 0 where that is not known yet."""
    if not is_known(masks):
        return 0
    ablated = ~np.asarray(masks).reshape(-1, model.num_neurons).all(axis=0)
    touched = model.layer_of_neuron[ablated]
    return int(touched.min()) if touched.size else len(model.layers) - 1


def _layers_of_order(model: Network, order: ArrayLike) -> tuple[int, ...]:
    """The layers that an order touches; all where that is not known yet."""
    if not is_known(order):
        return tuple(range(len(model.layers)))
    touched = np.unique(model.layer_of_neuron[np.asarray(order).ravel()]).tolist()
    return tuple(touched) or (len(model.layers) - 1,)


def _checked_layers(
    layers: Sequence[int] | None, model: Network, order: ArrayLike
) -> tuple[int, ...]:
    """The layers to look at, ascending; refused unless they hold the order."""
    touched = _layers_of_order(model, order)
    if layers is None:
        return touched
    given = tuple(sorted(set(layers)))
    within = given and given[0] >= 0 and given[-1] < len(model.layers)
    known = is_known(order) and np.size(order)
    if not within or (known and not set(touched) <= set(given)):
        raise ValueError(
            f"layers: expected layers from 0 to {len(model.layers) - 1}, those of the "
            f"order among them, got {list(layers)}"
        )
    return given


def _with_axes(array: ArrayLike, number: int = 1) -> Any:
    """The same behind new axes of length 1."""
    known = array if isinstance(array, jax.Array) else np.asarray(array)
    known = host_view(known)
    return known.reshape(*[1] * number, *known.shape)


def _broadcast_shapes(
    name: str, shape: tuple[int, ...], clamp: tuple[int, ...]
) -> tuple[int, ...]:
    """The axes before the last of all masks or orders under all clamps."""
    try:
        return np.broadcast_shapes(shape, clamp)
    except ValueError as error:
        raise ValueError(
            f"clamp: expected [..., H] that is broadcast against {name}, got leading "
            f"axes {list(clamp)} and {list(shape)}"
        ) from error

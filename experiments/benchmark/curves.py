"""Cases of ablation curves and of pairs of ablations, beside PyTorch.

Peers that would take too long evaluate evenly spaced masks, and their time is scaled;
their note says so.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca
from ioca_jax.ablation.curves import ENGINES, ablation_curves, default_engine
from ioca_jax.ablation.pair_effects import pair_effects

from . import costs, in_torch, peers
from .checks import check_counts, check_curve, check_effects
from .inputs import (
    DEFAULT,
    Case,
    Examples,
    Settings,
    affine_maps,
    examples,
    installed_peers,
    one_network,
    random_networks,
)
from .timing import Contender

# What a peer is taken to reach of the peak when its sample is chosen.
_PEER_SHARE = 0.5
_FEWEST_POINTS = 16
_EXAMPLES_FOR_MEANS = 10_000


@dataclasses.dataclass(frozen=True)
class CurveWork:
    """Ablation curves to compute.

    Attributes:
        hidden: widths.
        num_examples: N.
        num_inputs: D of synthetic images.
        scope: ``network``, ``layer_1`` ..., or ``last_layer``.
        num_seeds: S.
        num_orders: random orders for each network.
        clamp: ``zero`` or ``mean``.
        engines: those side by side with the default.
        peers: those in PyTorch.
        goals: by peer.
    """

    hidden: tuple[int, ...]
    num_examples: int
    num_inputs: int
    scope: str = "network"
    num_seeds: int = 1
    num_orders: int = 1
    clamp: str = "mean"
    engines: tuple[str, ...] = ENGINES
    peers: tuple[str, ...] = (*in_torch.TORCH_CURVES, *in_torch.LEAN_CURVES)
    goals: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Checks the names."""
        names = ("network", "last_layer", *self._layer_names())
        for field, known, given in (
            ("scopes", names, self.scope),
            ("clamps", ("zero", "mean"), self.clamp),
            *(("engines", ENGINES, engine) for engine in self.engines),
        ):
            if given not in known:
                raise ValueError(
                    f"{field}: expected one or more of {', '.join(known)}, got "
                    f"{given!r}"
                )

    def _layer_names(self) -> list[str]:
        return [f"layer_{index + 1}" for index in range(len(self.hidden))]

    @property
    def layers(self) -> tuple[int, ...]:
        """The scope's hidden layers, counted from 0."""
        if self.scope == "network":
            return tuple(range(len(self.hidden)))
        if self.scope == "last_layer":
            return (len(self.hidden) - 1,)
        return (self._layer_names().index(self.scope),)


class CurveArrays(NamedTuple):
    """What curves are computed from.

    Attributes:
        model: the networks' shape.
        variables: leaves begin with S.
        orders: int32 [S, O, K].
        clamps: float32 [S, H].
        data: the examples.
    """

    model: ioca.MLP
    variables: Any
    orders: jax.Array
    clamps: jax.Array
    data: Examples

    @property
    def widths(self) -> tuple[int, ...]:
        """D, the hidden layers', C."""
        return self.data.x.shape[1], *self.model.hidden, self.model.num_classes


def curve_arrays(work: CurveWork, settings: Settings) -> CurveArrays:
    """Draws networks and orders.

    Args:
        work: what curves.
        settings: the dataset and the activation.

    Returns:
        Everything on the device.
    """
    data = examples(settings, work.num_examples, work.num_inputs)
    model = ioca.MLP(work.hidden, data.num_classes, settings.activation)
    variables = random_networks(model, data.x, work.num_seeds)
    neurons = np.flatnonzero(np.isin(model.layer_of_neuron, work.layers))
    keys = jax.random.split(jax.random.key(2), (work.num_seeds, work.num_orders))
    draw = partial(ioca.random_order, jnp.asarray(neurons))
    orders = jax.vmap(jax.vmap(lambda key: draw(key=key)))(keys)
    some = data.x[:_EXAMPLES_FOR_MEANS]
    means = jax.jit(
        partial(jax.lax.map, lambda one: model.apply(one, some)[1].mean(axis=0))
    )(variables)
    clamps = means if work.clamp == "mean" else jnp.zeros_like(means)
    return CurveArrays(model, variables, orders, clamps, data)


def curve_program(
    arrays: CurveArrays,
    layers: tuple[int, ...],
    engine: str,
    memory_gb: float,
) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
    """This library's curves of all networks, in one call.

    Args:
        arrays: what from.
        layers: the hidden layers that orders touch.
        engine: as in ``ioca_jax.ablation_curve``.
        memory_gb: likewise.

    Returns:
        A function of nothing of note that returns correct [S, O, K+1, C] and loss
        [S, O, K+1].
    """

    def run(_):
        # Not under jit: it chooses its programs and devices itself.
        curves = ablation_curves(
            arrays.model,
            arrays.variables,
            arrays.orders,
            arrays.clamps[:, None],
            *arrays.data[:2],
            layers=layers,
            engine=engine,
            memory_gb=memory_gb,
        )
        return curves.correct, curves.loss

    return run


def spaced(number: int, at_most: float) -> np.ndarray:
    """Evenly spaced indices below a number, its first and last among them.

    Args:
        number: of all.
        at_most: how many to choose; all where there are no more.

    Returns:
        Integers, ascending.
    """
    chosen = int(min(number, max(2, at_most)))
    return np.unique(np.linspace(0, number - 1, chosen).round().astype(int))


def masks_at(orders: np.ndarray, points: np.ndarray, num_neurons: int) -> np.ndarray:
    """Cumulative masks at some points of orders.

    Args:
        orders: integers [S, O, K].
        points: integers [P], how many neurons are ablated.
        num_neurons: H.

    Returns:
        bool [S, O, P, H]; False ablates.
    """
    steps = np.full((*orders.shape[:2], num_neurons), orders.shape[2])
    np.put_along_axis(steps, orders, np.arange(orders.shape[2])[None, None], axis=2)
    return steps[:, :, None, :] >= points[:, None]


@dataclasses.dataclass(frozen=True)
class MaskWork:
    """Masks to evaluate one by one, or a sample of them where that takes long.

    Attributes:
        arrays: of what networks, and on what examples.
        settings: shared by all cases.
        number: P, masks for each network and order.
        masks_at: makes bool [S, O, Q, H] of indices [Q] below P.
        checked: indices held against the oracle.
    """

    arrays: CurveArrays
    settings: Settings
    number: int
    masks_at: Callable[[np.ndarray], np.ndarray]
    checked: np.ndarray

    @cached_property
    def inputs(self) -> peers.CurveInputs:
        """The masks to check, and what they are evaluated on."""
        arrays = self.arrays
        return peers.CurveInputs(
            affine_maps(arrays.model, arrays.variables),
            self.settings.activation,
            self.masks_at(self.checked),
            np.asarray(arrays.clamps),
            np.asarray(arrays.data.x),
            np.asarray(arrays.data.y),
        )

    @cached_property
    def oracle(self) -> peers.CurveOracle:
        """What the masks to check must give."""
        return peers.curve_oracle(self.inputs)

    def _affordable(self) -> np.ndarray:
        """Indices of the masks for whose forward passes there is time."""
        settings, inputs = self.settings, self.inputs
        operations = costs.forward_operations(self.arrays.widths)
        operations *= len(inputs.y) * inputs.masks.shape[0] * inputs.masks.shape[1]
        seconds = operations / (_PEER_SHARE * settings.ceilings.operations)
        most = max(_FEWEST_POINTS, settings.preset.seconds_per_run / seconds)
        return spaced(self.number, most)

    def _contender(self, prepare: Any, name: str, ours: bool = False) -> Contender:
        """Someone who evaluates as many masks as there is time for."""
        indices = self._affordable()
        setup, run = prepare(self.inputs._replace(masks=self.masks_at(indices)))

        def check(results):
            if not np.array_equal(indices, self.checked):
                setup_of_checked, run_checked = prepare(self.inputs)
                results = run_checked(setup_of_checked())
            correct, loss = results
            return check_curve(name, correct, loss, self.oracle)

        few = len(indices) < self.number
        note = f"{len(indices)} of {self.number} masks, time scaled" if few else ""
        scale = self.number / len(indices)
        return Contender(name, run, check, ours, setup, scale, note)

    def masks_engine(self) -> Contender:
        """This library, mask by mask."""
        return self._contender(self._on_device, "masks", ours=True)

    def _on_device(self, inputs: peers.CurveInputs) -> Any:
        arrays, masks = self.arrays, jnp.asarray(inputs.masks)

        def run(_):
            curves = [
                ioca.evaluate_masks(
                    arrays.model,
                    one_network(arrays.variables, seed),
                    of_seed,
                    arrays.clamps[seed],
                    *arrays.data[:2],
                    memory_gb=self.settings.memory_gb,
                )
                for seed, of_seed in enumerate(masks)
            ]
            return (
                jnp.stack([curve.correct for curve in curves]),
                jnp.stack([curve.loss for curve in curves]),
            )

        return (lambda: None), run

    def torch(
        self, kinds: Sequence[str] = in_torch.TORCH_CURVES
    ) -> tuple[list[Contender], dict[str, str]]:
        """PyTorch in several ways, or why it is missing."""
        makers = {
            kind: partial(self._contender, partial(in_torch.torch_curve, kind))
            for kind in kinds
        }
        if len(self._affordable()) < self.number:
            makers.pop("torch_rank_one", None)  # it goes from each point to the next
        return installed_peers(self.settings, in_torch.has_torch(), makers)


def _description(work: CurveWork, network: str, num_points: int) -> str:
    """What the case computes, in a line."""
    numbers = {"seeds": work.num_seeds, "orders": work.num_orders}
    several = (f", {number} {name}" for name, number in numbers.items() if number > 1)
    return (
        f"{work.scope} curve, {network}, {work.num_examples} examples, {num_points} "
        f"points, {work.clamp} clamp{''.join(several)}"
    )


def curve_case(work: CurveWork, settings: Settings) -> Case:
    """Ablation curves: the default, each engine, and PyTorch in several ways.

    Args:
        work: what curves.
        settings: shared by all cases.

    Returns:
        The case.
    """
    arrays = curve_arrays(work, settings)
    model, widths, preset = arrays.model, arrays.widths, settings.preset
    num_curves = work.num_seeds * work.num_orders
    orders = np.asarray(arrays.orders)
    num_points = orders.shape[2] + 1
    layers_of_steps = model.layer_of_neuron[orders[0, 0]]
    checked = spaced(num_points, preset.checked_points // num_curves)
    by_mask = MaskWork(
        arrays,
        settings,
        num_points,
        lambda points: masks_at(orders, points, model.num_neurons),
        checked,
    )
    cost_by = partial(
        costs.curve_cost,
        widths,
        layers_of_steps,
        work.num_examples,
        work.num_orders,
        work.num_seeds,
    )

    def whole(name: str, engine: str) -> Contender:
        run = curve_program(arrays, work.layers, engine, settings.memory_gb)

        def check(results):
            correct, loss = (np.asarray(array)[:, :, checked] for array in results)
            return check_curve(name, correct, loss, by_mask.oracle)

        note = engine if name == DEFAULT else ""
        return Contender(name, run, check, ours=True, note=note)

    contenders, left_out = [whole(DEFAULT, default_engine())], {}
    for engine in work.engines:
        if engine == default_engine():
            continue
        if engine not in ENGINES:
            left_out[engine] = "is interpreted on a CPU, for tests only"
        elif cost_by(engine).floor(settings.ceilings) <= preset.seconds_per_run:
            contenders.append(whole(engine, engine))
        elif engine == "masks":
            contenders.append(by_mask.masks_engine())
        else:
            left_out[engine] = (
                f"needs more than {preset.seconds_per_run:g} s a run; the default is "
                "timed"
            )
    in_torch, missing = by_mask.torch(work.peers)
    return Case(
        _description(
            work, f"{'-'.join(map(str, widths))} {settings.activation}", num_points
        ),
        dataclasses.asdict(work) | {"widths": widths, "points": num_points},
        work.num_examples * num_points * num_curves,
        cost_by(),
        (*contenders, *in_torch),
        work.goals,
        left_out | missing,
    )


def pair_effects_case(layer: int, settings: Settings) -> Case:
    """What ablating two neurons of a layer costs beyond each one, of all pairs.

    Args:
        layer: a hidden layer, counted from 0; -1 is the last.
        settings: shared by all cases.

    Returns:
        The case. Others evaluate the intact network, every neuron and every pair.
    """
    preset = settings.preset
    layer %= len(preset.hidden)
    arrays = curve_arrays(
        CurveWork(preset.hidden, preset.num_examples, preset.num_inputs), settings
    )
    model, num_examples = arrays.model, preset.num_examples
    neurons = np.flatnonzero(model.layer_of_neuron == layer)
    width = len(neurons)
    first, second = np.triu_indices(width, 1)
    masks = np.ones((1 + width + len(first), model.num_neurons), bool)
    masks[1 + np.arange(width), neurons] = False
    for of_pairs in (first, second):
        masks[1 + width + np.arange(len(first)), neurons[of_pairs]] = False
    some = spaced(len(first), preset.checked_points // 3)
    by_mask = MaskWork(
        arrays,
        settings,
        len(masks),
        lambda indices: masks[None, None, indices],
        np.concatenate([[0], 1 + first[some], 1 + second[some], 1 + width + some]),
    )

    def run(_):
        # Not under jit: it chooses its programs and devices itself.
        return pair_effects(
            model,
            arrays.variables,
            arrays.clamps,
            *arrays.data[:2],
            layer,
            memory_gb=settings.memory_gb,
        )

    def check(effects):
        at_some = [np.asarray(e)[0, first[some], second[some]] for e in effects[:2]]
        of_some = effects._replace(accuracy=at_some[0], loss=at_some[1])
        return check_effects(DEFAULT, of_some, by_mask.oracle, num_examples)

    in_torch, left_out = by_mask.torch()
    return Case(
        f"ablations of {len(first)} pairs in hidden layer {layer + 1}, "
        f"{'-'.join(map(str, arrays.widths))} {settings.activation}, {num_examples} "
        f"examples, {len(masks)} masks, mean clamp",
        {"layer": layer, "pairs": len(first), "examples": num_examples},
        num_examples * len(masks),
        costs.pair_effects_cost(arrays.widths, layer, num_examples),
        (
            Contender(DEFAULT, run, check, ours=True),
            by_mask.masks_engine(),
            *in_torch,
        ),
        left_out=left_out,
        most_seconds=10.0,
    )


def _network_curve(settings: Settings, scope: str, goals: dict[str, float]) -> Case:
    preset = settings.preset
    return curve_case(
        CurveWork(
            preset.hidden, preset.num_examples, preset.num_inputs, scope, goals=goals
        ),
        settings,
    )


def _study(settings: Settings, num_seeds: int) -> Case:
    """A study's curves, many orders of each network; a peer is timed on one."""
    preset = settings.preset
    return curve_case(
        CurveWork(
            preset.hidden,
            preset.num_examples,
            preset.num_inputs,
            num_seeds=num_seeds,
            num_orders=preset.num_orders,
            engines=(),
            peers=("torch_lean",) if num_seeds == 1 else (),
            goals={"torch_lean": 100} if num_seeds == 1 else {},
        ),
        settings,
    )


def _deep_curve(settings: Settings) -> Case:
    preset = settings.preset
    return curve_case(
        CurveWork(
            preset.deep_hidden,
            preset.deep_examples,
            preset.deep_inputs,
            goals={"torch_hoisted": 2.0},
        ),
        settings,
    )


def sharding_case(settings: Settings) -> Case:
    """The same curve through the device mesh, and on one device without it.

    Args:
        settings: shared by all cases.

    Returns:
        The case. On one device the difference is what the mesh costs.
    """
    preset = settings.preset
    work = CurveWork(preset.hidden, preset.num_examples, preset.num_inputs)
    arrays = curve_arrays(work, settings)
    run = curve_program(arrays, work.layers, default_engine(), settings.memory_gb)
    on_one = arrays._replace(
        data=jax.device_put(arrays.data, jax.devices()[0])  # where jit finds them all
    )
    # While it is traced nothing is spread over devices.
    unsharded = jax.jit(
        lambda variables, orders, clamps, x, y: curve_program(
            CurveArrays(
                arrays.model, variables, orders, clamps, arrays.data._replace(x=x, y=y)
            ),
            *(work.layers, default_engine(), settings.memory_gb),
        )(None)
    )
    expected = run(None)

    def check(name: str, results) -> dict[str, float]:
        return check_counts(name, results[0], np.asarray(expected[0]))

    points = arrays.model.num_neurons + 1
    return Case(
        f"the whole-network curve on {len(jax.devices())} devices by the mesh, and on "
        "one without it",
        {"devices": len(jax.devices()), "points": points},
        work.num_examples * points,
        costs.curve_cost(
            arrays.widths, arrays.model.layer_of_neuron, work.num_examples
        ),
        (
            Contender(DEFAULT, run, partial(check, DEFAULT), ours=True),
            Contender(
                "unsharded",
                lambda _: unsharded(
                    *(on_one.variables, on_one.orders, on_one.clamps),
                    *on_one.data[:2],
                ),
                partial(check, "unsharded"),
                ours=True,
            ),
        ),
    )

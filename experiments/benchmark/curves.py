"""Cases of ablation curves of MLPs: this library's engines, and PyTorch.

Peers evaluate evenly spaced masks where there are many, and their time is scaled; the
table says so.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ioca_jax as ioca
from ioca_jax.ablation.engines import default_engine
from ioca_jax.networks.models import as_network

from . import in_torch
from .inputs import (
    DEFAULT,
    Case,
    Examples,
    Settings,
    affine_maps,
    examples,
    one_network,
    random_networks,
)
from .oracles import CurveInputs, CurveOracle, check_curve, curve_oracle
from .timing import Contender

# A peer's set-up, and its run, which takes what the set-up returned.
Prepared = tuple[Callable[[], Any], Callable[[Any], Any]]
_EXAMPLES_FOR_MEANS = 10_000


def spaced(number: int, at_most: int) -> np.ndarray:
    """Evenly spaced indices below a number, its first and last among them."""
    chosen = min(number, max(2, at_most))
    return np.unique(np.linspace(0, number - 1, chosen).round().astype(int))


def masks_at(orders: np.ndarray, points: np.ndarray, num_neurons: int) -> np.ndarray:
    """Masks [S, O, P, H], False ablates, after ``points`` [P] neurons of each order."""
    steps = np.full((*orders.shape[:2], num_neurons), orders.shape[2])
    np.put_along_axis(steps, orders, np.arange(orders.shape[2])[None, None], axis=2)
    return steps[:, :, None, :] >= points[:, None]


@dataclasses.dataclass(frozen=True)
class Points:
    """The points of curves: who evaluates which, and the oracle of some.

    Attributes:
        orders: int32 [S, O, K].
        num_neurons: H.
        num_masks: masks that a peer evaluates, about, of all curves together.
        num_checked: likewise those that the oracle evaluates.
        oracle_of: the oracle of masks [S, O, P, H].
    """

    orders: np.ndarray
    num_neurons: int
    num_masks: int
    num_checked: int
    oracle_of: Callable[[np.ndarray], CurveOracle]

    @property
    def number(self) -> int:
        """Points of a curve, K+1."""
        return self.orders.shape[2] + 1

    @property
    def checked(self) -> np.ndarray:
        """Points that are compared with the oracle."""
        num_curves = self.orders.shape[0] * self.orders.shape[1]
        return spaced(self.number, self.num_checked // num_curves)

    @cached_property
    def oracle(self) -> CurveOracle:
        """The figures of the checked points."""
        return self.oracle_of(masks_at(self.orders, self.checked, self.num_neurons))

    def whole(self, name: str, run: Callable[[], Any], note: str = "") -> Contender:
        """This library's way to all points: correct [S, O, K+1, C], loss [S, O, K+1].

        It is not jitted here: the library chooses its programs and devices itself.
        """
        every = np.arange(self.number)
        check = partial(self._check, name, every)
        return Contender(name, lambda _: run(), check, ours=True, note=note)

    def by_mask(
        self, name: str, prepare: Callable[[np.ndarray], Prepared], ours: bool = False
    ) -> Contender:
        """A contender that ``prepare`` makes for masks [S, O, P, H]."""
        num_curves = self.orders.shape[0] * self.orders.shape[1]
        sample = spaced(self.number, self.num_masks // num_curves)
        sample = np.union1d(sample, self.checked)
        setup, run = prepare(masks_at(self.orders, sample, self.num_neurons))
        few = len(sample) < self.number
        return Contender(
            name,
            run,
            partial(self._check, name, sample),
            ours,
            setup,
            scale=self.number / len(sample),
            note=f"{len(sample)} of {self.number} masks, time scaled" if few else "",
        )

    def _check(self, name: str, points: np.ndarray, results: Any) -> dict[str, float]:
        at = np.searchsorted(points, self.checked)
        correct, loss = (np.asarray(array)[:, :, at] for array in results)
        return check_curve(name, correct, loss, self.oracle)


class _Arrays(NamedTuple):
    """What curves are computed from; leaves and axes as in ``ablation_curves``."""

    model: ioca.MLP
    variables: Any
    orders: jax.Array
    clamps: jax.Array
    data: Examples


def _draw(
    settings: Settings, deep: bool, scope: str, num_seeds: int, num_orders: int
) -> _Arrays:
    preset = settings.preset
    hidden, *sizes = (
        (preset.deep_hidden, preset.deep_examples, preset.deep_inputs)
        if deep
        else (preset.hidden, preset.num_examples, preset.num_inputs)
    )
    data = examples(settings, *sizes)
    model = ioca.MLP(hidden, data.num_classes, settings.activation)
    variables = random_networks(model, data.x, num_seeds)
    lowest = len(hidden) - 1 if scope == "last_layer" else 0
    neurons = np.flatnonzero(np.asarray(model.layer_of_neuron) >= lowest)
    keys = jax.random.split(jax.random.key(2), (num_seeds, num_orders))
    draw = partial(ioca.random_order, jnp.asarray(neurons))
    orders = jax.vmap(jax.vmap(lambda key: draw(key=key)))(keys)
    some = data.x[:_EXAMPLES_FOR_MEANS]
    means = jax.jit(
        partial(jax.lax.map, lambda one: model.apply(one, some)[1].mean(axis=0))
    )(variables)
    return _Arrays(model, variables, orders, means, data)


def curve_case(
    settings: Settings,
    *,
    deep: bool = False,
    scope: str = "network",
    num_seeds: int = 1,
    num_orders: int = 1,
    engines: Sequence[str] = (),
    peers: Sequence[str] = in_torch.TORCH_CURVES,
) -> Case:
    """Ablation curves in random orders, clamped to means.

    ``engines`` are timed beside the default; ``traced`` is the default engine of the
    same network written as a plain function, ``traced_vmap`` as one of a single
    example, and ``traced_norm`` with a normalisation that changes no number.
    """
    arrays = _draw(settings, deep, scope, num_seeds, num_orders)
    model, data = arrays.model, arrays.data
    inputs, points = _points(arrays, settings)

    def in_pytorch(kind: str) -> Contender:
        return points.by_mask(
            kind,
            lambda masks: in_torch.torch_curve(kind, inputs._replace(masks=masks)),
        )

    others, left_out = settings.peers(
        in_torch.has_torch(), {kind: partial(in_pytorch, kind) for kind in peers}
    )
    engine, num_examples = default_engine(as_network(model, data.x)), len(data.y)
    widths = "-".join(map(str, (data.x.shape[1], *model.hidden, data.num_classes)))
    return Case(
        f"{scope} curve, {widths} {settings.activation}, {num_examples} examples, "
        f"{points.number} points, {num_seeds} networks, {num_orders} orders of each",
        num_examples * points.number * num_seeds * num_orders,
        (
            points.whole(DEFAULT, _by_engine(arrays, settings, engine), engine),
            *(
                _ours(name, arrays, settings, points)
                for name in engines
                if name != engine
            ),
            *others,
        ),
        left_out,
    )


def _points(arrays: _Arrays, settings: Settings) -> tuple[CurveInputs, Points]:
    """What peers and the oracle take, and the points that are held against it."""
    preset = settings.preset
    inputs = CurveInputs(
        affine_maps(arrays.variables),
        settings.activation,
        np.zeros(0, bool),
        np.asarray(arrays.clamps),
        np.asarray(arrays.data.x),
        np.asarray(arrays.data.y),
    )
    points = Points(
        np.asarray(arrays.orders),
        arrays.model.num_neurons,
        preset.num_masks,
        preset.num_checked,
        lambda masks: curve_oracle(inputs._replace(masks=masks)),
    )
    return inputs, points


def _ours(name: str, arrays: _Arrays, settings: Settings, points: Points) -> Contender:
    """An engine, or the default of the same network as a plain function."""
    if name == "masks":
        prepare = partial(_evaluate_masks, arrays, settings.memory_gb)
        return points.by_mask(name, prepare, ours=True)
    if name.startswith("traced"):
        return points.whole(name, _traced(name, arrays, settings), "a plain function")
    return points.whole(name, _by_engine(arrays, settings, name))


def _by_engine(arrays: _Arrays, settings: Settings, engine: str) -> Callable[[], Any]:
    def run():
        curves = ioca.ablation_curves(
            arrays.model,
            arrays.variables,
            arrays.orders,
            arrays.clamps[:, None],
            *arrays.data[:2],
            engine=engine,
            memory_gb=settings.memory_gb,
        )
        return curves.correct, curves.loss

    return run


def _evaluate_masks(arrays: _Arrays, memory_gb: float, masks: np.ndarray) -> Prepared:
    """This library, mask by mask."""
    on_device = jnp.asarray(masks)

    def run(_):
        evaluations = [
            ioca.evaluate_masks(
                arrays.model,
                one_network(arrays.variables, seed),
                of_seed,
                arrays.clamps[seed],
                *arrays.data[:2],
                memory_gb=memory_gb,
            )
            for seed, of_seed in enumerate(on_device)
        ]
        return (
            jnp.stack([one.correct for one in evaluations]),
            jnp.stack([one.loss for one in evaluations]),
        )

    return (lambda: None), run


def _traced(name: str, arrays: _Arrays, settings: Settings) -> Callable[[], Any]:
    """The first network as a function that nothing here has seen before."""
    activate = getattr(jax.nn, settings.activation)
    layers = one_network(arrays.variables, 0)["params"]

    def apply(layers, x):
        for index in range(len(layers)):
            layer = layers[f"dense_{index}"]
            x = activate(x) if index else x
            x = jnp.matmul(x, layer["kernel"], precision="highest") + layer["bias"]
            if name == "traced_norm":
                x = (x - 0 * layer["bias"]) * jax.lax.rsqrt(1 + 0 * layer["bias"])
        return x

    x, y, _ = arrays.data
    written = jax.vmap(apply, (None, 0)) if name == "traced_vmap" else apply
    network = ioca.trace_network(written, layers, x)

    def run():
        curve = ioca.ablation_curve(
            network,
            layers,
            arrays.orders[0],
            arrays.clamps[0],
            x,
            y,
            memory_gb=settings.memory_gb,
        )
        return curve.correct[None], curve.loss[None]

    return run

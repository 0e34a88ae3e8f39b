"""A network: layers by name, run with any of their neurons replaced.

Running a network means running the equations that its function was traced to, with each
layer's value replaced where neurons are ablated. What a network can do besides, such as
being a chain of affine maps, is found in its equations.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ioca_jax.batching import count_examples
from ioca_jax.checks import device_examples
from ioca_jax.networks.axes import Axes, Site
from ioca_jax.networks.chain import AffineChain, find_chain
from ioca_jax.networks.exclusions import described
from ioca_jax.networks.gates import Gate, find_gate
from ioca_jax.networks.jaxprs import Program, evaluate, is_affine, named_leaves
from ioca_jax.networks.layers import (
    Ablation,
    Layer,
    Values,
    by_layer,
    count_neurons,
    neuron_layers,
    neuron_outputs,
    slices_of,
)
from ioca_jax.networks.pooling import Activations, Pooling
from ioca_jax.networks.traceable import (
    check_leaves,
    check_same_equations,
    checked_examples,
    trace_logits,
)
from ioca_jax.networks.units import share_inputs
from ioca_jax.networks.walks import comes_of_sigmoid

SIZES = (2, 3)  # numbers of examples that a function is first traced with


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A network found by tracing; made by ``trace_network``.

    It is equal to itself alone and hashes by identity: whether two functions compute
    the same cannot be decided. So keep one network rather than tracing it again; every
    new one is compiled anew.

    Attributes:
        layers: in the order in which the network runs.
        num_classes: C.
        pooling: how positions become one number, and which of them count.
        unreachable: products and variables that are part of no layer and why, a line
            each; ``print`` puts those of one reason on one line.
        model: the ``MLP`` or ``CNN`` that was traced; None for other functions.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> def apply(weights, x):
        ...     return jax.nn.relu(x @ weights["first"]) @ weights["second"]
        >>> weights = {"first": jnp.ones((4, 3)), "second": jnp.ones((3, 2))}
        >>> network = ioca.trace_network(apply, weights, jnp.ones((5, 4)))
        >>> isinstance(network, ioca.Network), network.num_neurons
        (True, 3)
        >>> network.chain(0) is None  # dense layers in a row
        False
    """

    layers: tuple[Layer, ...]
    num_classes: int
    pooling: Pooling
    unreachable: tuple[str, ...]
    model: Any
    _function: Callable
    _sites: tuple[Site, ...]
    _variables: Any
    _example: Any
    _programs: dict[int, Program]
    _shared: dict[int, int]
    _axes: Mapping[int, Axes]
    _chains: dict[int, AffineChain | None]

    @property
    def pool(self) -> str:
        """How positions become one number: one of ``POOLS``."""
        return self.pooling.pool

    @property
    def tokens(self) -> int | None:
        """T, of logits [N, T, C]; None of logits [N, C]."""
        return self.pooling.tokens

    @property
    def num_neurons(self) -> int:
        """H, the number of neurons in all layers."""
        return count_neurons(self.layers)

    @property
    def num_outputs(self) -> int:
        """P, the numbers that all neurons output: a head outputs a vector."""
        return len(neuron_outputs(self.layers))

    @property
    def layer_of_neuron(self) -> np.ndarray:
        """int32 [H]: the layer of each neuron, counted from 0."""
        return neuron_layers(self.layers)

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each layer lies on the neuron axis."""
        return slices_of(self.layers)

    @property
    def activation(self) -> str | None:
        """A model's own; else ``sigmoid`` if all layers' values come out of one.

        None: not known.
        """
        if self.model is not None:
            return self.model.activation
        program = self._programs[SIZES[0]]
        is_sigmoid = all(comes_of_sigmoid(program, site.number) for site in self._sites)
        return "sigmoid" if is_sigmoid else None

    @property
    def widest(self) -> int:
        """The numbers in one example's largest value, of all that are computed."""
        program, size = self._programs[SIZES[0]], SIZES[0]
        computed = [n for equation in program.equations for n in equation.outputs]
        return max(math.prod(program.values[n].shape) for n in computed) // size

    def __str__(self):
        return described(self)

    def apply(
        self, variables: Any, x: Any, ablation: Ablation | None = None
    ) -> tuple[Float[Array, "N *tokens C"], Float[Array, "N *tokens H"]]:
        """Runs the network.

        Args:
            variables: of the structure and shapes that it was traced with.
            x: [N, ...] examples, or a pytree of arrays [N, ...], as traced.
            ablation: neurons to clamp, at all of their positions.

        Returns:
            Logits [N, C], or [N, T, C] of tokens, in the network's own type, and
            activations [N, H], or [N, T, H], pooled, as the next layer receives them.

        Raises:
            ValueError: variables, examples or an ablation of other shapes.
        """
        logits, outputs = self.outputs(variables, x, ablation)
        return logits, self.pooling.all_measured(self.layers, outputs, self.counted(x))

    def counted(self, x: Any, y: ArrayLike | None = None) -> Array | None:
        """The positions that count, bool [N, T]; None: all."""
        if self.pooling.counts is not None:
            checked_examples(x, self._example)  # before the user's function sees them
        return self.pooling.counted(device_examples("x", x), y)

    def activations(
        self, variables: Any, x: Any, y: ArrayLike | None = None
    ) -> Activations:
        """What is measured of each neuron, and what clamps replace.

        Args:
            variables: as in ``apply``.
            x: as in ``apply``.
            y: int [N, T] labels of tokens, which say what counts unless the network has
                ``counts``; not used otherwise.
        """
        _, outputs = self.outputs(variables, x)
        counted = self.counted(x), self.counted(x, y)
        return self.pooling.activations(self.layers, outputs, *counted)

    def outputs(
        self,
        variables: Any,
        x: Any,
        ablation: Ablation | None = None,
        shift: Mapping[str, ArrayLike] | None = None,
    ) -> tuple[Float[Array, "N *tokens C"], dict[str, Array]]:
        """Runs the network; activations are not pooled.

        Args:
            variables: as in ``apply``.
            x: as in ``apply``.
            ablation: as in ``apply``.
            shift: by name ``[N, *layer.shape]``, added to a layer's activations before
                the ablation. Gradients with respect to zeros here are those with
                respect to the activations.

        Returns:
            Logits [N, C], and by name each layer's activations ``[N, *layer.shape]``.
        """
        known, num_examples = self._inputs(variables, x)
        return self._finish(known, num_examples, 0, ablation, shift)

    def prefix(
        self,
        variables: Any,
        x: Any,
        layer: int,
        ablation: Ablation | None = None,
    ) -> Values:
        """All that the network from a layer upwards depends on.

        Args:
            variables: as in ``apply``.
            x: as in ``apply``.
            layer: counted from 0.
            ablation: as in ``apply``; neurons of this layer and above are not ablated.

        Returns:
            Values for ``advance`` and ``above``.
        """
        known, num_examples = self._inputs(variables, x)
        values = self._stop(known, num_examples, 0, layer, ablation)
        return dataclasses.replace(values, counted=self.counted(x))

    def advance(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> Values:
        """Runs from one layer to the next.

        Args:
            variables: as in ``apply``.
            layer: counted from 0, not the last.
            values: of ``layer``.
            ablation: as in ``apply``; only neurons of ``layer`` are ablated.

        Returns:
            Values of the next layer.
        """
        known = self._resume(variables, layer, values)
        after = self._stop(known, values.num_examples, layer, layer + 1, ablation)
        return dataclasses.replace(after, counted=values.counted)

    def above(
        self,
        variables: Any,
        layer: int,
        values: Values,
        ablation: Ablation | None = None,
    ) -> tuple[Float[Array, "N *tokens C"], Float[Array, "N *tokens upper"]]:
        """Runs from a layer to the logits.

        Under ``vmap`` over ablations, what is in ``values`` is computed once.

        Args:
            variables: as in ``apply``.
            layer: counted from 0.
            values: of ``layer``.
            ablation: as in ``apply``; neurons of layers below are not ablated.

        Returns:
            Logits [N, C], and the activations of the neurons from ``layer`` on.
        """
        known = self._resume(variables, layer, values)
        logits, outputs = self._finish(known, values.num_examples, layer, ablation)
        return logits, self.pooling.all_measured(self.layers, outputs, values.counted)

    def is_affine_above(self, layer: int) -> bool:
        """Whether the logits are an affine function of a layer's outputs.

        Args:
            layer: counted from 0.

        Returns:
            True if no equation between the layer and the logits is anything else, and
            none rounds to fewer than 32 bits.
        """
        return is_affine(self._programs[SIZES[0]], self._sites[layer].number)

    def chain(self, lowest: int) -> AffineChain | None:
        """The network from a layer on as affine maps with activations between them.

        Args:
            lowest: counted from 0; -1 for the inputs.

        Returns:
            The chain, the same object at every call; None where the network is none
            from there on.
        """
        if not -1 <= lowest < len(self.layers):
            raise ValueError(
                f"lowest: expected a layer from -1 to {len(self.layers) - 1}, got "
                f"{lowest}"
            )
        if lowest not in self._chains:
            program = self._programs[SIZES[0]]
            known = self._variable_values
            found = find_chain(program, self._sites, self._axes, lowest, known)
            self._chains[lowest] = found
        return self._chains[lowest]

    @functools.cached_property
    def gates(self) -> tuple[Gate | None, ...]:
        """Of each layer, the value through which alone the network sees it."""
        first, second = map(self._program, SIZES)
        layers = range(len(self.layers))
        return tuple(find_gate(first, second, self._sites, layer) for layer in layers)

    def at_gate(
        self, variables: Any, layer: int, values: Values
    ) -> tuple[Array, Callable[[Array], Array]]:
        """A layer's gate as an affine function of its outputs.

        Args:
            variables: as in ``apply``.
            layer: counted from 0; it has a gate.
            values: of ``layer``; its outputs are not looked at.

        Returns:
            The gate ``[N, *shape]`` of outputs 0, and the linear map from outputs to
            what they add to it.
        """
        gate: Any = self.gates[layer]
        program, site = self._program(values.num_examples), self._sites[layer]
        known = self._resume(variables, layer, values)
        schedule = program.schedule([gate.number], known)

        def run(outputs: Array) -> Array:
            shape = program.values[site.number].shape
            own = site.from_canonical(_two_or_more(outputs), shape)
            one = {**known, site.number: own}
            evaluate(schedule, one)
            return jnp.moveaxis(one[gate.number], gate.axis, 0)[: values.num_examples]

        # Known zeros would be computed by XLA's compiler, slowly.
        zeros = jax.lax.optimization_barrier(jnp.zeros_like(values.outputs))
        return jax.linearize(run, zeros)

    def blank_values(self, layer: int) -> Values:
        """Zeros in the shapes of the values of two examples at a layer."""
        program, (own, *rest) = self._program(SIZES[0]), self._cut(layer)
        outputs = self._sites[layer].canonical(jnp.zeros(program.values[own].shape))
        others = [program.values[number] for number in rest]
        zeros = tuple(jnp.zeros(value.shape, value.dtype) for value in others)
        return Values(outputs, zeros, SIZES[0])

    def _program(self, num_examples: int) -> Program:
        """The equations for a number of examples; one example is computed as two."""
        num_examples = max(num_examples, 2)
        if num_examples not in self._programs:
            function, example = self._function, self._example
            program = trace_logits(function, self._variables, example, num_examples)
            program = share_inputs(program, self._shared)
            sizes = SIZES[0], num_examples
            check_same_equations(self._programs[SIZES[0]], program, sizes)
            self._programs[num_examples] = program
        return self._programs[num_examples]

    def _inputs(self, variables: Any, x: Any) -> tuple[dict[int, Any], int]:
        """Variables, constants and examples, by number; and how many examples."""
        arrays = checked_examples(x, self._example)
        num_examples = count_examples(arrays)
        program = self._program(num_examples)
        known = self._variable_values(variables, program)
        known |= zip(program.x, map(_two_or_more, arrays.values()), strict=True)
        return known, num_examples

    def check_variables(
        self, variables: Any, num_networks: int | None = None, what: str = "variables"
    ) -> None:
        """Refuses variables of other names, shapes or types than it was traced with.

        Args:
            variables: of one network.
            num_networks: S, if leaves begin with S.
            what: what the variables are called in the error.

        Raises:
            ValueError: the first difference.
        """
        check_leaves(self._variables, variables, num_networks, what)

    def _variable_values(self, variables: Any, program: Program) -> dict[int, Any]:
        """Variables and constants, by number."""
        self.check_variables(variables)
        leaves = [jnp.asarray(leaf) for _, leaf in named_leaves(variables)]
        return program.constants | dict(enumerate(leaves))

    def _cut(self, layer: int) -> list[int]:
        """Numbers of what the network from a layer upwards depends on, its own first.

        Equations move that depend on an output of this layer or one above; the rest of
        what they use is here. That includes layers above that do not depend on this
        one (of queries, keys and values, none depends on another).
        """
        program = self._programs[SIZES[0]]
        own = self._sites[layer].number
        sources = {site.number for site in self._sites[layer:]}
        moving, used = set(), {own, program.output}
        for equation in program.equations:
            if not sources.isdisjoint(equation.numbers):
                sources |= set(equation.outputs)
                moving |= set(equation.outputs)
                used |= set(equation.numbers)
        still = [n for n in sorted(used - moving) if program.values[n].on_x]
        return [own, *(number for number in still if number != own)]

    def _resume(self, variables: Any, layer: int, values: Values) -> dict[int, Any]:
        """What a layer's values stand for, by number."""
        program = self._program(values.num_examples)
        site, (own, *rest) = self._sites[layer], self._cut(layer)
        outputs = _two_or_more(values.outputs)
        known = self._variable_values(variables, program)
        known[own] = site.from_canonical(outputs, program.values[own].shape)
        if values.gate is not None:
            gate: Any = self.gates[layer]
            known[gate.number] = jnp.moveaxis(_two_or_more(values.gate), 0, gate.axis)
        return known | dict(zip(rest, values.rest, strict=True))

    def _stop(
        self,
        known: dict[int, Any],
        num_examples: int,
        start: int,
        layer: int,
        ablation: Ablation | None,
    ) -> Values:
        """Runs to a layer; layers from ``start`` up to it are ablated."""
        own, *rest = self._cut(layer)
        self._run(known, num_examples, [own, *rest], self._sites[start:layer], ablation)
        outputs = self._sites[layer].canonical(known[own])[:num_examples]
        return Values(outputs, tuple(known[number] for number in rest), num_examples)

    def _finish(
        self,
        known: dict[int, Any],
        num_examples: int,
        start: int,
        ablation: Ablation | None,
        shift: Mapping[str, ArrayLike] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Runs to the logits; layers from ``start`` on are ablated and returned."""
        output, sites = self._programs[SIZES[0]].output, self._sites[start:]
        wanted = [output, *(site.number for site in sites)]
        self._run(known, num_examples, wanted, sites, ablation, shift)
        return known[output][:num_examples], {
            site.layer.name: site.canonical(known[site.number])[:num_examples]
            for site in sites
        }

    def _run(
        self,
        known: dict[int, Any],
        num_examples: int,
        wanted: Sequence[int],
        sites: Sequence[Site],
        ablation: Ablation | None,
        shift: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Adds the wanted values to the known ones, with some sites ablated."""
        parts = {} if ablation is None else by_layer(self.layers, ablation)
        site_of = {site.number: site for site in sites}

        def replace(number: int, value: Any) -> Any:
            if number not in site_of:
                return value
            site = site_of[number]
            if shift and site.layer.name in shift:
                added = _two_or_more(jnp.asarray(shift[site.layer.name], value.dtype))
                value += site.from_canonical(added, value.shape)
            if site.layer.name in parts:
                value = site.ablate(value, *parts[site.layer.name])
            return value

        schedule = self._program(num_examples).schedule(wanted, known)
        for number in site_of.keys() & known.keys():
            known[number] = replace(number, known[number])
        evaluate(schedule, known, replace)


def _two_or_more(array: Array) -> Array:
    """Arrays of one example repeat it: axes of size 1 would lose their roles."""
    return jnp.concatenate([array, array]) if len(array) == 1 else array

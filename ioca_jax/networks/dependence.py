"""Which inputs of an equation each of its outputs depends on; loops are looked into.

Inputs are bits of an integer, so that one pass over a body serves all of them. What a
loop carries is found by a fixed point: a counter depends on itself alone, even if the
loop carries something else that depends on the examples.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal, primitives

from ioca_jax.networks.jaxprs import (
    called_jaxpr,
    settle,
    shapes_of,
    split_scan,
    split_while,
    unclosed,
)
from ioca_jax.networks.rules import rule_of

Bits = list[int]  # for each value the inputs it depends on


def output_sources(eqn: JaxprEqn) -> list[tuple[int, ...]]:
    """For each output of an equation, the positions of the inputs it depends on."""
    positions = range(len(eqn.invars))
    outputs = _outputs_of(eqn, [1 << position for position in positions])
    return [tuple(p for p in positions if bits >> p & 1) for bits in outputs]


def _outputs_of(eqn: JaxprEqn, inputs: Bits) -> Bits:
    if eqn.primitive is primitives.scan_p:
        return _scan(eqn, inputs)
    if eqn.primitive is primitives.while_p:
        return _while(eqn, inputs)
    if eqn.primitive is primitives.cond_p:
        branches = [_body(body, inputs[1:]) for body in eqn.params["branches"]]
        return [_union([inputs[0], *bits]) for bits in zip(*branches, strict=True)]
    called = called_jaxpr(eqn, shapes_of(eqn))
    if called is not None:
        return _body(called, inputs)
    if rule_of(eqn.primitive.name).is_paired:
        return inputs
    return [_union(inputs)] * len(eqn.outvars)


def _body(jaxpr: Any, inputs: Sequence[int]) -> Bits:
    """The bits of a jaxpr's outputs, from those of its inputs."""
    jaxpr = unclosed(jaxpr)
    known: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> int:
        return 0 if isinstance(atom, Literal) else known.get(atom, 0)

    for eqn in jaxpr.eqns:
        outputs = _outputs_of(eqn, [read(atom) for atom in eqn.invars])
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _scan(eqn: JaxprEqn, inputs: Bits) -> Bits:
    num_consts, num_carry = split_scan(unclosed(eqn.params["jaxpr"]), shapes_of(eqn))
    consts, rest = inputs[:num_consts], inputs[num_consts:]
    carry, scanned = rest[:num_carry], rest[num_carry:]
    body = eqn.params["jaxpr"]

    def step(carry: Bits) -> Bits:
        return _body(body, consts + carry + scanned)

    carry = settle(lambda carry: step(carry)[:num_carry], carry, operator.or_)
    return carry + step(carry)[num_carry:]


def _while(eqn: JaxprEqn, inputs: Bits) -> Bits:
    condition, body = map(
        unclosed, (eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"])
    )
    num_cond, num_body = split_while(condition, body)
    first = num_cond + num_body
    consts = inputs[num_cond:first]
    carry = settle(
        lambda carry: _body(body, consts + carry), inputs[first:], operator.or_
    )
    (decides,) = _body(condition, inputs[:num_cond] + carry)
    # How often the body runs changes what it does not hand on as it is.
    unchanged = map(operator.is_, body.invars[num_body:], body.outvars)
    return [
        bits if same else bits | decides
        for bits, same in zip(carry, unchanged, strict=True)
    ]


def _union(bits: Sequence[int]) -> int:
    return functools.reduce(operator.or_, bits, 0)

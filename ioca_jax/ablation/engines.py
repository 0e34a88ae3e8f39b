"""Which of the engines computes a curve."""

from typing import Any

import jax

from ioca_jax.ablation.incremental import incremental_engine
from ioca_jax.ablation.masks import masks_engine
from ioca_jax.ablation.metrics import Scorer
from ioca_jax.ablation.prefix_sums import prefix_sums_engine
from ioca_jax.ablation.rank_one import rank_one_engine
from ioca_jax.batching import count_examples
from ioca_jax.networks.chain import AffineChain
from ioca_jax.networks.network import Network

ENGINES = ("rank_one", "prefix_sums", "incremental", "masks")


def default_engine(
    network: Network,
    lowest: int = 0,
    *,
    takes_constants: bool = True,
    num_points: int | None = None,
) -> str:
    """The engine that ``ablation_curve`` takes unless told otherwise.

    Of a chain from the lowest ablated layer on, under constants, ``rank_one`` on a CPU,
    where it was measured to be the fastest at every size, and ``prefix_sums``
    elsewhere, where a loop of small steps is launch-bound; else ``incremental``, also
    of a chain where ``num_points`` are so few that running it for each costs less than
    restoring one neuron after another.
    """
    chain = network.chain(lowest) if takes_constants else None
    if chain is None or _is_cheaper_by_points(chain, num_points):
        return "incremental"
    return "rank_one" if jax.default_backend() == "cpu" else "prefix_sums"


def _is_cheaper_by_points(chain: AffineChain, num_points: int | None) -> bool:
    """Whether products for each point cost less than updates for each neuron."""
    if num_points is None:
        return False
    widths = (*chain.widths[chain.lowest :], chain.num_classes)
    products = [a * b for a, b in zip(widths[:-1], widths[1:], strict=True)]
    updates = sum(
        width * (widths[layer + 1] + sum(products[layer + 1 :]))
        for layer, width in enumerate(widths[:-1])
    )
    # An update does its operations more slowly: measured at three sizes.
    return num_points * sum(products) < 1.5 * updates


def curve_engine(
    name: str | None,
    network: Network,
    variables: Any,
    layers: tuple[int, ...],
    scorer: Scorer,
    x: Any,
    num_steps: int,
    memory_gb: float,
    *,
    takes_constants: bool,
    num_curves: int,
    num_points: int | None,
) -> Any:
    """The engine that computes the curves, at so many points if not at all.

    Each network has ``num_curves``.
    """
    if name is None:
        name = default_engine(
            *(network, layers[0]),
            takes_constants=takes_constants,
            num_points=num_points,
        )
    _check_engine(name, network, layers[0], takes_constants)
    if name == "masks":
        number = count_examples(x)
        return masks_engine(network, layers[0], scorer, number, memory_gb)
    if name == "incremental":
        sizes = (network, variables, layers, scorer, x, num_steps, memory_gb)
        return incremental_engine(
            *sizes,
            takes_constants=takes_constants,
            num_curves=num_curves,
            num_points=num_points or num_steps + 1,
        )
    chain: Any = network.chain(layers[0])
    if name == "rank_one":
        return rank_one_engine(network, chain, layers, scorer, x, memory_gb)
    return prefix_sums_engine(network, chain, scorer, x, num_steps, memory_gb)


def _check_engine(
    engine: str, network: Network, lowest: int, takes_constants: bool
) -> None:
    """Refuses what is no engine, or one that cannot compute the curves."""
    if engine not in ENGINES:
        gone = "; kernel was removed in version 3: use prefix_sums"
        raise ValueError(
            f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}"
            f"{gone if engine == 'kernel' else ''}"
        )
    if engine in ("rank_one", "prefix_sums"):
        reason = "constant clamps" if not takes_constants else None
        if network.chain(lowest) is None:
            reason = f"dense layers in a row from {network.layers[lowest].name} on"
        if reason:
            raise ValueError(
                f"engine: expected incremental or masks, got {engine}, which needs "
                f"{reason}"
            )

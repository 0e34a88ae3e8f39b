"""What the examples of own networks share: their flags, and the study at their end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import ioca_jax as ioca
from ioca_jax.cli.command import option
from ioca_jax.study import events
from ioca_jax.study.run import how_to_go_on


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of an example beside those of its study."""

    workdir: str = option("runs/own", "The run's folder.")


def run(
    options: Options,
    config: ioca.StudyConfig,
    train: Callable[[ioca.StudyConfig, ioca.Dataset], tuple[ioca.Network, Any]],
) -> None:
    """Trains, traces and studies; ``train`` returns network and variables."""
    data = ioca.load_dataset(**config.data_arguments())
    network, variables = train(config, data)
    print(network)
    results = ioca.run_study(
        config,
        options.workdir,
        data=data,
        network=network,
        variables=variables,
        progress=True,
        listeners=[events.log_lines()],
    )
    print(ioca.summarize(results))


def when_interrupted(options: Options, config: ioca.StudyConfig) -> str:
    """The line that an interrupted job ends with."""
    del config
    return how_to_go_on(options.workdir)

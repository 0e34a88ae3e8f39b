"""What the examples of own networks share: their flags, and the study at their end."""

from typing import Any

from absl import flags

import ioca_jax as ioca
from ioca_jax.study import events
from ioca_jax.study.runner import how_to_go_on

from . import config_flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder.", required=True)
config_flags.define(ioca.StudyConfig)
flags.adopt_module_key_flags(config_flags)


def run(train) -> None:
    """Runs a script whose function trains networks, of the flags and the data.

    It returns a traced network and the variables of all seeds.
    """

    def main() -> None:
        config = config_flags.parse(ioca.StudyConfig)
        data = ioca.load_dataset(**config.data_arguments())
        network, variables = train(config, data)
        print(network)
        _study(config, data, network, variables)

    config_flags.run_main(main, when_interrupted=lambda: how_to_go_on(WORKDIR.value))


def _study(config, data: ioca.Dataset, network: ioca.Network, variables: Any) -> None:
    results = ioca.run_study(
        config,
        WORKDIR.value,
        data=data,
        network=network,
        variables=variables,
        listeners=[events.progress_bar(), events.log_lines()],
    )
    print(ioca.summarize(results))

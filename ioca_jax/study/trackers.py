"""Listeners that send a run's losses and errors to Weights & Biases or MLflow.

Both stay on this machine, in the run's folder, unless the environment says otherwise
(``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``).
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ioca_jax.checks import import_extra
from ioca_jax.study.events import Event, Listener, tensorboard

_OF_EPOCHS = ("train_loss", "validation_loss", "validation_accuracy")


def _numbers(event: Event) -> dict[str, float]:
    """An event's numbers by name, without those of networks that all diverged."""
    found = {}
    if event["event"] == "epoch":
        prefix = f"from_seed_{event['first_seed']}"
        found = {f"{prefix}/{name}": event[name] for name in _OF_EPOCHS}
    elif event["event"] == "chunk":
        found = {"test_error": event["test_error"]}
    return {name: value for name, value in found.items() if value is not None}


def wandb(folder: str | os.PathLike, settings: Mapping[str, Any]) -> Listener:
    """A listener that logs to Weights & Biases, offline unless WANDB_MODE says so."""
    package, run = import_extra("wandb", "wandb", "tracker"), None

    def listen(event: Event) -> None:
        nonlocal run
        mode = os.environ.get("WANDB_MODE", "offline")
        run = run or package.init(
            project="ioca_jax", dir=str(folder), mode=mode, config=dict(settings)
        )
        numbers = _numbers(event)
        if numbers:  # steps of wandb never fall, as epochs do with the next chunk
            step = "epoch" if event["event"] == "epoch" else "finished"
            run.log({**numbers, step: event[step]})
        if event["event"] == "end":
            run.finish()

    return listen


def mlflow(folder: str | os.PathLike, settings: Mapping[str, Any]) -> Listener:
    """A listener that logs to MLflow, by default to mlflow.db in the folder."""
    package, run = import_extra("mlflow", "mlflow", "tracker"), None

    def listen(event: Event) -> None:
        nonlocal run
        if run is None:
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                database = pathlib.Path(folder).absolute() / "mlflow.db"
                package.set_tracking_uri(f"sqlite:///{database}")
            package.set_experiment("ioca_jax")
            run = package.start_run()
            package.log_params(dict(settings))
        numbers = _numbers(event)
        if numbers:
            step = event["epoch" if event["event"] == "epoch" else "finished"]
            package.log_metrics(numbers, step=step)
        if event["event"] == "end":
            package.end_run()

    return listen


def make_tracker(
    name: str, folder: str | os.PathLike, settings: Mapping[str, Any]
) -> Listener:
    """The listener of a tracker: ``wandb``, ``mlflow`` or ``tensorboard``."""
    if name == "tensorboard":
        return tensorboard(f"{folder}/tensorboard")
    return {"wandb": wandb, "mlflow": mlflow}[name](folder, settings)

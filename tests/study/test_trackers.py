"""Trackers get the numbers of events, offline; packages are stand-ins."""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import pytest

from ioca_jax.study.trackers import make_tracker

EPOCH = {"event": "epoch", "first_seed": 4, "epoch": 2, "train_loss": 0.5}
EPOCH |= {"validation_loss": 0.75, "validation_accuracy": None}
EVENTS = [
    {"event": "start"},
    EPOCH,
    {"event": "chunk", "finished": 8, "test_error": 0.25},
    {"event": "end"},
]
LOSSES = {"from_seed_4/train_loss": 0.5, "from_seed_4/validation_loss": 0.75}


@pytest.fixture(autouse=True)
def no_servers(monkeypatch):
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def test_wandb_logs_offline(monkeypatch, tmp_path):
    run = MagicMock()
    package = SimpleNamespace(init=MagicMock(return_value=run))
    monkeypatch.setitem(sys.modules, "wandb", package)
    listen = make_tracker("wandb", tmp_path, {"epochs": 2})
    for event in EVENTS:
        listen(event)
    package.init.assert_called_once_with(
        project="ioca_jax", dir=str(tmp_path), mode="offline", config={"epochs": 2}
    )
    logged = [{**LOSSES, "epoch": 2}, {"test_error": 0.25, "finished": 8}]
    assert run.log.mock_calls == [call(numbers) for numbers in logged]
    run.finish.assert_called_once_with()


def test_mlflow_logs_into_the_folder(monkeypatch, tmp_path):
    package = MagicMock()
    monkeypatch.setitem(sys.modules, "mlflow", package)
    listen = make_tracker("mlflow", tmp_path, {"epochs": 2})
    for event in EVENTS:
        listen(event)
    package.set_tracking_uri.assert_called_once_with(
        f"sqlite:///{tmp_path / 'mlflow.db'}"
    )
    package.log_params.assert_called_once_with({"epochs": 2})
    assert package.log_metrics.mock_calls == [
        call(LOSSES, step=2),
        call({"test_error": 0.25}, step=8),
    ]
    package.end_run.assert_called_once_with()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_tracker_is_named_with_its_extra(name, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ImportError) as error:
        make_tracker(name, tmp_path, {})
    assert str(error.value) == (
        f"tracker: expected the package {name}, found none; install it with "
        f"pip install 'ioca_jax[{name}]'"
    )

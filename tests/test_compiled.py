"""What programs cost is held by counts, which do not vary as seconds do."""

import importlib.metadata
import json
import pathlib
from typing import Any

import counts
import processes
import pytest

# XLA's figures of one program vary by less between processors.
_TOLERANCE = 0.02
RECORDED = json.loads(counts.RECORDED.read_text("utf-8"))


def differences(recorded: Any, now: Any) -> list[str]:
    """A line for each figure that is not the recorded one, both numbers in it."""
    lines: list[str] = []
    for name in sorted(recorded.keys() | now.keys()):
        before, after = recorded.get(name), now.get(name)
        if before is None or after is None:
            lines.append(f"{name}: {before} recorded, {after} now")
        elif isinstance(before, dict):
            lines += [f"{name}: {line}" for line in differences(before, after)]
        elif abs(after - before) > _TOLERANCE * before:
            how = "more" if after > before else "fewer, so that it cannot grow back"
            lines.append(f"{name}: {before:,} recorded, {after:,} now, {how}")
    return lines


def check(recorded: dict[str, Any], now: dict[str, Any]) -> None:
    found = differences(recorded, now)
    text = "; ".join(found)
    assert not found, f"{text}; to accept this, run {counts.COMMAND}"


def measured(call: str) -> dict[str, Any]:
    """What a function of ``counts`` returns in a process of its own.

    There nothing was compiled before, and shapes are not checked.
    """
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); import counts\n"
        f"print(json.dumps(counts.{call}))"
    )
    return json.loads(processes.call("-c", code).splitlines()[-1])


def test_engines_take_no_more_operations_bytes_or_memory():
    version = importlib.metadata.version("jax")
    if version != RECORDED["jax"]:
        pytest.skip(f"counts are of jax {RECORDED['jax']}, not of {version}")
    check(RECORDED["engines"], measured("engine_figures()"))


@pytest.mark.slow
def test_studies_compile_no_more_programs(tmp_path: pathlib.Path):
    check(RECORDED["programs"], measured(f"program_counts({str(tmp_path)!r})"))


def test_a_change_is_told_with_both_numbers_and_how_to_accept_it():
    recorded = {"masks": {"bytes": 1000, "memory": 100}, "demo": 10}
    check(recorded, {"masks": {"bytes": 1019, "memory": 99}, "demo": 10})
    message = (
        "demo: 10 recorded, 11 now, more; masks: bytes: 1,000 recorded, 1,021 now, "
        "more; masks: memory: 100 recorded, 90 now, fewer, so that it cannot grow "
        "back; rank_one: None recorded, {'bytes': 1} now; to accept this, run python "
        "tests/counts.py"
    )
    now = {"masks": {"bytes": 1021, "memory": 90}, "demo": 11, "rank_one": {"bytes": 1}}
    with pytest.raises(AssertionError) as caught:
        check(recorded, now)
    assert str(caught.value).split("\n")[0] == message

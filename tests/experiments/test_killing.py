"""The experiment that kills counts losses and repeats, and a unit is done once."""

import multiprocessing
import os

import pytest

from experiments.kills import __main__ as kills
from experiments.kills.unit import BEGINS, work


def test_losses_and_repeats_are_counted_by_kill(tmp_path):
    for seed in range(3):
        work(str(tmp_path), "0", [seed], 1, seed + 1)
    finished = kills.finished_at(tmp_path)
    assert finished.keys() == {"unit_0", "unit_1", "unit_2"}
    os.utime(tmp_path / "unit_1" / "checksums.json", (0, 0))  # as if written again
    begins = ["1.0 7 0", "1.5 8 1", "2.5 9 0", "3.5 8 2", "4.5 5 0", "4.6 5 2"]
    (tmp_path / BEGINS).write_text("\n".join(begins))
    killed = [
        kills.Kill("2", "worker", 7, 2.0, {}),
        kills.Kill("2", "driver", 3, 4.0, finished),
        kills.Kill("2", "worker", 5, 5.0, {}),
    ]
    rows = kills.judge(tmp_path, killed)
    assert [row["repeated"] for row in rows] == [1, 2, 0]
    assert [row["lost"] for row in rows] == [0, 1, 0]
    with pytest.raises(IndexError):  # nothing was killed between the two
        kills.judge(tmp_path, killed[:1])


def test_a_unit_is_done_once_by_several_processes(tmp_path):
    spawn = multiprocessing.get_context("forkserver")
    call = str(tmp_path), "0.1", [4], 1, 5
    processes = [spawn.Process(target=work, args=call) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len((tmp_path / BEGINS).read_text().splitlines()) == 1
    answer = work(*call)
    # echo -n 4 | sha256sum
    assert answer["digest"] == (
        "4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a"
    )

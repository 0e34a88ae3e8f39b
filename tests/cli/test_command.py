"""Flags of a configuration: lists of integers, and a single seed told from a number."""

import dataclasses

import command_line
import pytest
from absl import flags

import ioca_jax as ioca
from ioca_jax.cli import command


def parsed(*arguments: str) -> ioca.StudyConfig:
    values = flags.FlagValues()
    command.define(ioca.StudyConfig, values)
    values(["job", *arguments])
    return command.parse(ioca.StudyConfig, values)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0:5", (0, 1, 2, 3, 4)),
        ("5,", (5,)),
        ("5:6", (5,)),
        ("7,2", (7, 2)),
        ("3,5:7", (3, 5, 6)),
    ],
)
def test_lists_and_ranges_of_seeds(text, seeds):
    assert parsed(f"--seeds={text}").seeds == seeds


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("5", "0:5 for 5 networks, or 5, for the one network of seed 5"),
        ("1", "1, for the one network of seed 1"),
        ("0", "0, for the one network of seed 0"),
        (" 12", "0:12 for 12 networks, or 12, for the one network of seed 12"),
    ],
)
def test_one_number_is_not_taken_for_seeds(text, advice):
    with pytest.raises(flags.IllegalFlagValueError) as error:
        parsed(f"--seeds={text}")
    assert str(error.value) == (
        f"flag --seeds={text}: expected a list or a range, got a number; give {advice}"
    )


def test_other_lists_take_one_number():
    config = parsed("--hidden=8", "--trajectory_epochs=3")
    assert (config.hidden, config.trajectory_epochs) == ((8,), (3,))


@pytest.mark.parametrize("seeds", [(5,), (0, 1, 2)])
def test_a_configurations_flags_give_the_configuration(seeds):
    config = ioca.StudyConfig(seeds=seeds, hidden=(7,), trajectory_epochs=(1,))
    assert parsed(*config.flags()) == config
    assert dataclasses.replace(config, seeds=(9,)) != config


@pytest.mark.parametrize(
    ("arguments", "lists", "advice"),
    [
        (
            ("--clamps=zero", "--epochs=3", "--clamps=mean"),
            "clamps: expected one list, its values separated by commas, got "
            "--clamps=zero and --clamps=mean",
            "--clamps=zero,mean",
        ),
        (
            ("-measures", "entropy,mrmr", "--measures=jmi,entropy"),
            "measures: expected one list, its values separated by commas, got "
            "--measures=entropy,mrmr and --measures=jmi,entropy",
            "--measures=entropy,mrmr,jmi",
        ),
        (
            ("--seeds=5,", "--seeds", "0:3"),
            "seeds: expected one list, its values separated by commas, got "
            "--seeds=5, and --seeds=0:3",
            "--seeds=5,0:3",
        ),
    ],
)
def test_a_list_is_given_once(arguments, lists, advice):
    values = flags.FlagValues()
    command.define(ioca.StudyConfig, values)
    with pytest.raises(flags.IllegalFlagValueError) as error:
        command.check_lists_given_once(["job", *arguments], values)
    assert str(error.value) == f"{lists}; give {advice}"


def test_other_flags_and_lists_of_a_file_are_replaced():
    values = flags.FlagValues()
    command.define(ioca.StudyConfig, values)
    flags.DEFINE_multi_string("grid", [], "", flag_values=values)
    arguments = ("--epochs=1", "--epochs=2", "--grid=a", "--grid=b", "--flagfile=f")
    command.check_lists_given_once(
        ["job", *arguments, "--hidden=4", "other", "--", "--hidden=5"], values
    )


def test_a_command_line_refuses_a_list_given_twice():
    done = command_line.run(
        "experiments.run_study", "--clamps=zero", "--clamps=mean", "--dry_run"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: clamps: expected one list, its values separated by commas, got "
        "--clamps=zero and --clamps=mean; give --clamps=zero,mean\n"
    )

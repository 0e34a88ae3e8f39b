"""A command: absl flags out of dataclasses, and answers to wrong input in one line.

A field's name, default and help text stand once, in a dataclass; ``define`` makes a
flag of each, ``parse`` makes the dataclass of the flags. ``Command.run`` is the entry
point of every job: what the user got wrong comes back as one line on stderr and exit
code 2, with the traceback at ``--verbosity=1``.
"""

import contextlib
import dataclasses
import os
import re
import signal
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import jax
from absl import flags, logging

from ioca_jax import devices

Config = TypeVar("Config")


def option(default: Any, help_text: str) -> Any:
    """A field of a dataclass that becomes a flag."""
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class Machine:
    """What every command takes: devices, and where programs are kept."""

    num_devices: int | None = option(
        None,
        "Devices to work on: all if not given; on a CPU, where devices are virtual, "
        "one for each core. With --workers, those of each worker on a CPU; "
        "--worker_gpus are its GPUs.",
    )
    compilation_cache: str = option(
        "~/.cache/ioca_jax",
        "Where compiled programs are kept for later runs; empty keeps none. "
        "JAX_COMPILATION_CACHE_DIR goes before it.",
    )
    deterministic: bool = option(
        False,
        "Have XLA use only operations on GPUs that give the same bits every time; "
        "slower. On a CPU they do so anyway.",
    )


# What --help puts together; every other flag is the command's own.
GROUPS = {
    "Data": "dataset data_dir num_validation num_test split_seed label_noise",
    "Network": "network architecture channels hidden activation dropout_rate "
    "batch_norm matmul_precision",
    "Training": "seeds epochs optimizer learning_rate batch_size l2 trajectory_epochs",
    "Measures": "measures quantizer robustness interactions direct_effects",
    "Ablation": "clamps metrics points random_orders",
    "Inference": "permutations",
    "Devices and memory": "num_devices memory_gb seeds_at_once compilation_cache "
    "deterministic",
    "Workers": "workers worker_gpus worker_cpus worker_partition worker_minutes",
}

# Flags of earlier versions, and what to do instead.
_GONE: dict[str, str] = dict.fromkeys(
    ("coordinator_address", "num_processes", "process_id", "process_timeout"),
    "gone since version 3; share out the seeds by --shard, and join them by merge",
)

USER_ERRORS = (ValueError, OSError, ImportError)
_LONGEST_RANGE = 10**6


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class IntegersParser(flags.ArgumentParser):
    """Integers as a list ``0,1,2``, with ranges ``0:5`` that leave out their end."""

    syntactic_help = "integers as a list 0,1,2; a range 0:5 is 0,1,2,3,4"

    def parse(self, argument: str | Sequence[int]) -> tuple[int, ...]:
        """Reads the list."""
        if not isinstance(argument, str):
            return tuple(argument)
        numbers: list[int] = []
        try:
            for part in filter(None, argument.split(",")):
                first, colon, end = part.partition(":")
                if colon:
                    if int(end) - int(first) > _LONGEST_RANGE:
                        raise ValueError
                    numbers += range(int(first), int(end))
                else:
                    numbers.append(int(first))
        except ValueError:
            raise ValueError(f"expected {self.syntactic_help}") from None
        return tuple(numbers)

    def flag_type(self) -> str:
        """The type's name in ``--help``."""
        return "integers"


class SeedsParser(IntegersParser):
    """Integers, where a single one ends in a comma.

    Most command lines take ``--seeds=5`` for a number of seeds; here it would be the
    one network of seed 5.
    """

    syntactic_help = "seeds as a list 0,1,2; a range 0:5 is 0,1,2,3,4; seed 5 alone, 5,"

    def parse(self, argument: str | Sequence[int]) -> tuple[int, ...]:
        """Reads the list."""
        seeds = super().parse(argument)
        marked = not isinstance(argument, str) or {",", ":"} & set(argument)
        if len(seeds) == 1 and not marked:
            (seed,) = seeds
            several = f"0:{seed} for {seed} networks, or " if seed > 1 else ""
            raise ValueError(
                f"expected a list or a range, got a number; give {several}{seed}, for "
                f"the one network of seed {seed}"
            )
        return seeds


class NamesParser(flags.ArgumentParser):
    """Names separated by commas."""

    syntactic_help = "names separated by commas"

    def parse(self, argument: str | Sequence[str]) -> tuple[str, ...]:
        """Reads the list."""
        if not isinstance(argument, str):
            return tuple(argument)
        return tuple(name.strip() for name in argument.split(",") if name.strip())

    def flag_type(self) -> str:
        """The type's name in ``--help``."""
        return "names"


def _define_list(parser: flags.ArgumentParser) -> Callable[..., Any]:
    serializer = flags.ListSerializer(",")

    def define_one(name: str, default: Any, help_text: str, **where: Any) -> Any:
        return flags.DEFINE(
            parser, name, default, help_text, serializer=serializer, **where
        )

    return define_one


_DEFINE: dict[str, Callable[..., Any]] = {
    "str": flags.DEFINE_string,
    "int": flags.DEFINE_integer,
    "float": flags.DEFINE_float,
    "bool": flags.DEFINE_boolean,
    "tuple[int, ...]": _define_list(IntegersParser()),
    "tuple[str, ...]": _define_list(NamesParser()),
}
# Fields whose type alone does not say how they are read.
_DEFINE_BY_NAME = {
    "seeds": _define_list(SeedsParser()),
    "grid": flags.DEFINE_multi_string,
    "settings": flags.DEFINE_multi_string,
}


def define(config_class: type, flag_values: flags.FlagValues) -> None:
    """Defines a flag for every field of a configuration."""
    for field in dataclasses.fields(config_class):
        kind = getattr(field.type, "__name__", "")  # of a plain type such as int
        kind = str(field.type) if kind not in _DEFINE else kind
        by_type = _DEFINE[kind.removesuffix(" | None")]
        define_flag = _DEFINE_BY_NAME.get(field.name, by_type)
        define_flag(
            field.name,
            field.default,
            field.metadata["help"],
            flag_values=flag_values,
        )


def parse(config_class: type[Config], flag_values: flags.FlagValues) -> Config:
    """Makes a configuration from the flags' values."""
    names = [field.name for field in dataclasses.fields(config_class)]  # pyright: ignore[reportArgumentType]
    return config_class(**{name: flag_values[name].value for name in names})


def check_lists_given_once(
    arguments: Sequence[str], flag_values: flags.FlagValues
) -> None:
    """Refuses a list that a command line gives twice: the first would be forgotten.

    What a flag file gives, the command line may replace.
    """
    given: dict[str, list[str]] = {}
    words = iter(arguments[1:])
    for word in words:
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in flag_values:
            continue
        if isinstance(flag_values[name].parser, IntegersParser | NamesParser):
            given.setdefault(name, []).append(value if equals else next(words, ""))
    for name, values in given.items():
        if len(values) > 1:
            parts = dict.fromkeys(",".join(values).split(","))
            raise flags.IllegalFlagValueError(
                f"{name}: expected one list, its values separated by commas, got "
                f"{' and '.join(f'--{name}={value}' for value in values)}; give "
                f"--{name}={','.join(filter(None, parts))}"
            )


@dataclasses.dataclass(frozen=True)
class Command:
    """A job with flags.

    Attributes:
        main: does the job; it takes a configuration of each class, and behind them the
            arguments that are not flags if ``takes_paths``. Its module's docstring is
            the help text.
        configs: dataclasses whose fields are the flags.
        takes_paths: whether there are arguments that are not flags.
        when_interrupted: takes what ``main`` does, and returns the line to end with
            after Ctrl-C or SIGTERM.
    """

    main: Callable[..., None]
    configs: tuple[type, ...]
    takes_paths: bool = False
    when_interrupted: Callable[..., str] = lambda *_: "interrupted"

    def flag_values(self) -> flags.FlagValues:
        """The command's flags, not parsed yet."""
        values = flags.FlagValues()
        values["verbosity"] = flags.FLAGS["verbosity"]
        for config_class in (*self.configs, Machine):
            define(config_class, values)
        return values

    def run(self) -> None:
        """Does the job that the process's arguments describe."""
        values = self.flag_values()
        left = self._parse_flags(values, sys.argv)
        logging.use_absl_handler()
        signal.signal(signal.SIGTERM, _terminate)
        arguments: list[Any] = []
        try:
            arguments += [parse(config_class, values) for config_class in self.configs]
            arguments += [left] if self.takes_paths else []
            # Before devices are looked at: JAX would take the GPUs of the workers.
            if "workers" in values and values["workers"].value is not None:
                jax.config.update("jax_platforms", "cpu")
            with _prepared_jax(parse(Machine, values)):
                self.main(*arguments)
        except USER_ERRORS as error:
            logging.debug("traceback of the error below", exc_info=True)
            stop(" ".join(str(error).split()))
        except KeyboardInterrupt as interrupt:
            code = 143 if isinstance(interrupt, Terminated) else 130
            stop(self.when_interrupted(*arguments), code)

    def _parse_flags(
        self, values: flags.FlagValues, arguments: Sequence[str]
    ) -> list[str]:
        """Reads the flags; returns the arguments that are none."""
        if {"--help", "-h", "-help"} & set(arguments[1:]):
            print(self.describe())
            sys.exit(0)
        try:
            left = values(arguments)[1:]
            check_lists_given_once(arguments, values)
        except flags.UnrecognizedFlagError as error:
            gone = _GONE.get(error.flagname)
            stop(f"{error.flagname}: {gone}" if gone else _readable(str(error)))
        except flags.Error as error:
            stop(_readable(str(error)))
        except (OSError, UnicodeDecodeError) as error:
            stop(f"flagfile: expected a text file with a flag a line, got {error}")
        if left and not self.takes_paths:
            stop(f"expected flags only (--name=value), got {left[0]!r}")
        flags.FLAGS.mark_as_parsed()  # absl's logging asks it
        if values["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # absl's own is INFO
        return left

    def grouped_flags(self) -> dict[str, list[flags.Flag]]:
        """The command's flags by group: its own, then those of ``GROUPS``."""
        values = self.flag_values()
        names = [
            field.name
            for config_class in (*self.configs, Machine)
            for field in dataclasses.fields(config_class)
        ]
        grouped = {group: wanted.split() for group, wanted in GROUPS.items()}
        known = {name for wanted in grouped.values() for name in wanted}
        grouped = {"This job": [n for n in names if n not in known], **grouped}
        found = {
            group: [values[name] for name in wanted if name in names]
            for group, wanted in grouped.items()
        }
        return {group: own for group, own in found.items() if own}

    def describe(self) -> str:
        """The help text: what the job does, and its flags in groups."""
        lines = [(sys.modules[self.main.__module__].__doc__ or "").strip()]
        for group, found in self.grouped_flags().items():
            lines.append(f"\n{group}:")
            for flag in found:
                default = str(flag.default_as_str or "").strip("'")
                shown = f"--{'[no]' * flag.boolean}{flag.name}: {flag.help}"
                shown += f" (default: {default})" if default else ""
                lines += textwrap.wrap(
                    shown,
                    88,
                    initial_indent="  ",
                    subsequent_indent="      ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
        lines.append(
            "\n--flagfile=FILE reads flags from a file; --verbosity=1 shows "
            "tracebacks; JAX_LOG_COMPILES=1\nin the environment logs what is compiled "
            "and for how long."
        )
        return "\n".join(lines)


def _readable(message: str) -> str:
    """A message of absl in one line; Python's on text that is no number as ours."""
    message = " ".join(message.removeprefix("ERROR:: ").split())
    for found, kind in (
        (r"invalid literal for int\(\) with base \d+:", "an integer"),
        ("could not convert string to float:", "a number"),
    ):
        message = re.sub(found, f"expected {kind}, got", message)
    return message


def _terminate(number: int, frame: types.FrameType | None) -> None:
    # Python ignores exceptions in callbacks of the garbage collector: try again.
    if frame is not None and frame.f_code.co_name == "_xla_gc_callback":
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        return
    raise Terminated


@contextlib.contextmanager
def _prepared_jax(machine: Machine) -> Iterator[None]:
    """Applies the flags that must take effect before JAX runs anything."""
    if machine.deterministic:
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_deterministic_ops=true".strip()
    if machine.compilation_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        devices.keep_programs(os.path.expanduser(machine.compilation_cache))
    chosen = machine.num_devices
    if chosen is None:
        devices.use_all_cores()
        yield
        return
    if chosen > 0:
        jax.config.update("jax_num_cpu_devices", chosen)
    with devices.limited_devices(chosen):
        yield


def stop(message: str, code: int = 2) -> NoReturn:
    """Ends the process with an error in one line."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    if code > 128:
        # An ordinary exit would end in a fault where something was being compiled.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)

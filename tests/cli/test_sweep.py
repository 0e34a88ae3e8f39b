"""A sweep: runs, failures, what is skipped, trials, wrong input."""

import json
import pathlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import command_line
import numpy as np
import pandas as pd
import processes
import pytest
from pages import Page
from synthetic import synthetic_results

import ioca_jax as ioca
from ioca_jax.cli import sweep as cli_sweep
from ioca_jax.cli.sweep import plan, read_grid
from ioca_jax.report.overview import sweep_page
from ioca_jax.results.subsets import mean_curve

SMALL = [
    *("--hidden=4", "--epochs=1", "--seeds=0:2", "--random_orders=2"),
    *("--permutations=0", "--nofigures"),
]
GOOD, DIVERGED = (f"learning_rate={rate},batch_size=64" for rate in ("0.001", "1e+38"))
FEW = "2 seeds: no test over networks can reach 5 %; 6 can, 4 more are needed"
TOO_LARGE = "batch_size: expected at most 3000, the training split's size, got 3001"


def sweep(*flags: str) -> command_line.Done:
    return command_line.run("experiments.sweep", *flags)


def grids(*lines: str) -> list[str]:
    return [f"--grid={line}" for line in lines]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[pathlib.Path, command_line.Done]:
    """A good run, one that diverges, and two with too large a batch."""
    top = tmp_path_factory.mktemp("sweep")
    (top / "grid.txt").write_text("# batches\nbatch_size=64,3001  # one too large\n\n")
    done = sweep(
        *SMALL,
        *grids("learning_rate=1e-3,1e38"),
        f"--grid_file={top / 'grid.txt'}",
        f"--workdir={top / 'runs'}",
    )
    return top / "runs", done


def without_progress(text: str) -> list[str]:
    return [
        line
        for line in text.splitlines()
        if not re.search(" networks (done|1 to 2)", line)
    ]


def files(folder: pathlib.Path) -> dict[pathlib.Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_runs_go_on_beside_failing_ones_which_are_told(swept):
    folder, done = swept
    assert done.returncode == 1
    failing = [name.replace("64", "3001") for name in (GOOD, DIVERGED)]
    assert without_progress(done.stderr) == [
        FEW,
        *(f"failed: {name}: {TOO_LARGE}" for name in failing),
    ]
    for name in (GOOD, DIVERGED):
        assert f"\n{name}: networks 1 to 2 of 2, training, after " in done.stderr
    lines = done.stdout.splitlines()
    table = pd.read_csv(folder / "runs.csv")
    assert [line.partition(":")[0] for line in lines[:4]] == table["name"].tolist()
    told = dict(line.split(": ", 1) for line in lines)
    error = table.set_index("name").loc[GOOD, "test_error_mean"]
    assert told[GOOD].startswith("finished, ")
    assert told[GOOD].endswith(f" s, test error {error:.2f} %")
    assert told[DIVERGED].endswith(" s, 2 of 2 networks diverged")
    assert lines[4].startswith("2 finished, 0 skipped, 2 failed. Written to ")
    written = {"runs.csv", "runs.parquet", "runs.png", "runs.pdf", "report.html"}
    written.add(".lock")
    assert {path.name for path in folder.iterdir()} == {GOOD, DIVERGED} | written
    assert (folder / "runs.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (folder / "runs.pdf").read_bytes().startswith(b"%PDF-")


def test_the_page_has_the_table_and_leads_to_the_runs(swept):
    folder, _ = swept
    page = Page((folder / "report.html").read_text("utf-8"))
    table = pd.read_csv(folder / "runs.csv")
    found = page.frame("runs")
    assert found["name"].tolist() == table["name"].tolist()
    assert found["reason"].tolist() == table["reason"].fillna("").tolist()
    place = (GOOD, "layer_1", "mean", "random", "random")
    areas = page.frame("areas").to_numpy().tolist()
    (area,) = [row[5] for row in areas if tuple(row[:5]) == place]
    column = "area.layer_1.mean.random.random"
    expected = table.set_index("name").loc[GOOD, column]
    assert float(area) == pytest.approx(expected, rel=1e-6)
    others = ("#", "data:", "https://arxiv.org/")
    files = [at for at in page.addresses if not at.startswith(others)]
    assert len(files) == 2  # those that failed have none
    assert all((folder / unquote(file)).is_file() for file in files)
    assert [at[:15] for at in page.addresses if "base64" in at] == ["data:image/png;"]
    assert "ioca sweep" in page.text


@pytest.mark.parametrize(("seeds", "known"), [(6, True), (2, False)])
def test_means_of_runs_have_intervals_over_networks(seeds, known, tmp_path):
    """Of six networks the interval that the sign-flip test keeps is their range."""
    results = synthetic_results(seeds=seeds).assign_attrs(seconds='{"computed": 1.0}')
    row = {"name": "b=1", "status": "finished"} | cli_sweep._found(results)
    errors = 100 * (1 - results["accuracy"].values[:, 0, 0, 0, 0])
    curves = mean_curve(results, "mean", "layer_1", "entropy", "ascending")
    areas = np.trapezoid(curves, axis=1) / (curves.shape[1] - 1)
    order = "layer_1.mean.entropy.ascending"
    names = ["test_error_low", "test_error_high"]
    names += [f"area_{end}.{order}" for end in ("low", "high")]
    ends = [float(row[name]) for name in names]
    expected = [errors.min(), errors.max(), areas.min(), areas.max()]
    expected = expected if known else [np.nan] * 4
    np.testing.assert_allclose(ends, expected, rtol=1e-6)
    (tmp_path / "runs.png").write_bytes(b"")
    column = "area.network.zero.random.random"
    other = row | {"name": "b=2", "test_error_mean": 99.0, column: 2.0}
    text = sweep_page(pd.DataFrame([row, other]), tmp_path, "ioca sweep")
    assert "#all-findings" in Page(text).addresses
    found = Page(text).text.replace("\N{NO-BREAK SPACE}", " ")
    interval = f" (95 % interval {errors.min():.2f} to {errors.max():.2f} %)" * known
    least = f"in b=1, {errors.mean():.2f} %{interval}, and greatest in b=2, 99.00 %"
    assert f"The mean test error is least {least}{interval}." in found
    low, high = (row[column.replace("area", f"area_{end}")] for end in ("low", "high"))
    interval = f" (95 % interval {low:.3f} to {high:.3f})" * known
    start = "the area under the accuracy curve in random order is"
    assert (
        f"In the whole network, clamped to zero, {start} least in b=1, "
        f"{row[column]:.3f}{interval}, and greatest in b=2, 2.000{interval}."
    ) in found
    alike = f"{row[column.replace('zero', 'mean')]:.3f} in all 2 runs"
    assert f"In the whole network, clamped to mean, {start} {alike}." in found


def test_the_table_is_what_the_runs_found(swept):
    folder, _ = swept
    table = pd.read_parquet(folder / "runs.parquet")
    pd.testing.assert_frame_equal(
        table.replace({"reason": {"": np.nan}}),
        pd.read_csv(folder / "runs.csv").astype(table.dtypes),
        check_dtype=False,
    )
    assert table.columns[:11].tolist() == [
        *("name", "learning_rate", "batch_size", "status", "reason", "seconds"),
        *("networks", "diverged", "above_chance", "test_error_mean", "test_error_sd"),
    ]
    areas = [name for name in table if name.startswith("area.")]
    assert len(areas) == 2 * 2 * 7  # scopes, clamps, orders
    failed = table[table["batch_size"] == 3001]
    assert failed["status"].tolist() == ["failed"] * 2
    assert failed["reason"].tolist() == [TOO_LARGE] * 2
    assert failed.loc[:, "networks":].isna().to_numpy().all()
    rows = table.set_index("name")
    for name, rate, diverged in ((GOOD, 1e-3, 0), (DIVERGED, 1e38, 2)):
        row = rows.loc[name]
        attributes = ioca.load_results(folder / name).attrs
        config = json.loads(attributes["configuration"])
        for where in (row, config):
            assert (where["learning_rate"], where["batch_size"]) == (rate, 64)
        assert (row["status"], row["networks"]) == ("finished", 2)
        assert row["diverged"] == diverged
        assert row["above_chance"] == 2 - diverged
        assert row["seconds"] == json.loads(attributes["seconds"])["computed"]
    assert rows.loc[DIVERGED, "test_error_mean":].isna().all()
    row, results = rows.loc[GOOD], ioca.load_results(folder / GOOD)
    # A single order's first point; the results are float32.
    errors = 100 - 100 * results["accuracy"].values[:, 0, 0, 0, 0]
    np.testing.assert_allclose(row["test_error_mean"], errors.mean(), rtol=1e-5)
    spread = abs(errors[0] - errors[1]) / 2**0.5
    np.testing.assert_allclose(row["test_error_sd"], spread, rtol=1e-4)
    for column in areas:
        _, scope, clamp, ranked_by, direction = column.split(".")
        of_order = [
            index
            for index, label in enumerate(results["ordering"].values)
            if label.startswith(
                "random" if ranked_by == "random" else f"{ranked_by}_{direction}"
            )
        ]
        assert len(of_order) == (2 if ranked_by == "random" else 1)
        curves = results["accuracy"].sel(scope=scope, clamp=clamp)
        curves = curves.isel(ordering=of_order).values.astype(float)
        expected = np.trapezoid(curves, np.linspace(0, 1, 5)).mean()
        # From counts; the stored accuracies are float32.
        np.testing.assert_allclose(row[column], expected, rtol=1e-6)


def two_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2)


def test_workers_share_the_units_of_all_runs_and_give_the_same_table(
    swept, tmp_path, monkeypatch
):
    pages = []
    write = cli_sweep.report
    monkeypatch.setattr(
        cli_sweep, "report", lambda t, w: pages.append(len(t)) or write(t, w)
    )
    folder, done = swept
    given = [f"--workers={__name__}:two_threads", f"--workdir={tmp_path}"]
    with_workers = sweep(
        *SMALL, *grids("learning_rate=1e-3,1e38", "batch_size=64,3001"), *given
    )
    assert with_workers.returncode == 1
    assert without_progress(with_workers.stderr) == without_progress(done.stderr)
    assert f"\n{GOOD}: 2 of 2 networks done, units: 1 of 1 done" in with_workers.stderr
    one, other = (pd.read_csv(f / "runs.csv") for f in (tmp_path, folder))
    assert one["name"].tolist() == other["name"].tolist()
    one, other = (table.drop(columns="seconds") for table in (one, other))
    pd.testing.assert_frame_equal(one, other)
    for name in (GOOD, DIVERGED):
        first, second = (ioca.load_results(f / name) for f in (tmp_path, folder))
        assert first.drop_attrs(deep=False).identical(second.drop_attrs(deep=False))
    assert pages[0] < 4  # it is there before the last run has finished
    assert pages[-1] == 4
    assert not (tmp_path / "units").exists()


def test_what_is_finished_is_skipped_and_another_runs_folder_refused(swept):
    folder, _ = swept
    other = "learning_rate=0.01,batch_size=64"
    (folder / other).mkdir()
    (folder / other / "flags.txt").write_text("--learning_rate=0.01\n--hidden=5\n")
    before = files(folder / GOOD) | files(folder / DIVERGED)
    done = sweep(
        *SMALL,
        *grids("learning_rate=0.001,1e38,0.01", "batch_size=64"),
        f"--workdir={folder}",
    )
    assert before == files(folder / GOOD) | files(folder / DIVERGED)
    assert done.returncode == 1
    assert "0 finished, 2 skipped, 1 failed." in done.stdout
    few, line = done.stderr.splitlines()
    assert few == FEW
    assert line.startswith(f"failed: {other}: workdir: expected a new folder or one of")
    table = pd.read_csv(folder / "runs.csv")
    assert table["status"].tolist() == ["skipped", "skipped", "failed"]
    assert table["test_error_mean"].notna().tolist() == [True, False, False]


def test_a_dry_run_tells_what_would_run_and_leaves_nothing(swept, tmp_path):
    folder, _ = swept
    before = files(folder)
    done = sweep(
        *SMALL,
        *grids("learning_rate=0.001", "batch_size=64,3001,32"),
        f"--workdir={folder}",
        "--dry_run",
        f"--compilation_cache={tmp_path / 'cache'}",
    )
    assert done.returncode == 1
    assert done.stderr == ""
    few, *others, _ = done.stdout.splitlines()
    assert few == FEW
    lines = dict(line.split(": ", 1) for line in others)
    assert lines.pop(GOOD) == "finished already"
    assert lines.pop(GOOD.replace("64", "3001")) == f"would fail: {TOO_LARGE}"
    assert lines.pop(GOOD.replace("64", "32")).startswith("would run, about ")
    assert not lines
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"About \S+ \S+ in all by order of magnitude, without compiling: about a "
        "minute more for each network not compiled yet",
        last,
    )
    assert files(folder) == before
    assert not list(tmp_path.iterdir())


OWN = """
import numpy as np
import ioca_jax as ioca

def make():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    data = ioca.Dataset.from_arrays(x[:40], y[:40], x[40:], y[40:], name="mine")
    kernel = rng.normal(size=(2, 5, 3)).astype(np.float32)
    variables = {"a": kernel, "b": kernel[:, :3]}
    one = {name: leaf[0] for name, leaf in variables.items()}
    apply = lambda v, x: abs(x @ v["a"]) @ v["b"]
    return ioca.trace_network(apply, one, data.test.x), variables, data
"""


def test_networks_bring_their_own_data(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = (
        *("--network=own_networks:make", "--seeds=0:2", "--permutations=0"),
        *(
            "--measures=entropy",
            "--random_orders=1",
            "--nofigures",
            "--quantizer=uniform:4",
        ),
        *("--grid=clamps=zero;mean", f"--workdir={tmp_path / 'runs'}"),
    )
    assert sweep(*flags).returncode == 0
    for clamp in ("zero", "mean"):
        results = ioca.load_results(tmp_path / "runs" / f"clamps={clamp}")
        assert json.loads(results.attrs["configuration"])["dataset"] == "mine"
        assert int(results["class_size"].sum()) == 20
    told = sweep(*flags, "--dry_run").stdout.splitlines()
    assert told[-3:-1] == [f"clamps={c}: finished already" for c in ("zero", "mean")]
    assert sweep(*flags).stdout.splitlines()[-1].startswith("0 finished, 2 skipped, ")


def test_a_dry_run_refuses_an_engine_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for more in ([], ["--dry_run"]):
        done = sweep(
            *SMALL, *grids("batch_size=32"), f"--workdir={tmp_path / 'sweep'}",
            "--workers=ray", *more,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "error: workers: expected the package ray, found none; install it with pip "
            "install 'ioca_jax[ray]'\n"
        )


def plans(*grids: list[str]) -> list:
    answers = []
    for lines in grids:
        try:
            grid = read_grid(lines)
            runs = plan(ioca.StudyConfig(), grid, pathlib.Path("top"))
            answers.append([str(run.folder) for run in runs])
        except ValueError as error:
            answers.append(str(error))
    return answers


def test_names_and_order_and_every_refusal():
    refused = {
        (): "--grid=field=value1,value2 or a --grid_file with such lines, got none",
        ("activation",): "field=value1,value2, got 'activation'",
        ("layers=1,2",): "a flag of a study, as ioca sweep --help lists, got 'layers'",
        ("activaton=relu",): "got 'activaton'; did you mean activation?",
        ("workdir=a,b",): "got 'workdir'",
        ("l2=",): "one or more values of l2, separated by ',', got ''",
        ("l2=0,,1",): "one or more values of l2, separated by ',', got '0,,1'",
        ("hidden=5;",): "one or more values of hidden, separated by ';', got '5;'",
        ("l2=a",): "values of l2 that are each a number, got 'a'",
        ("epochs=1.5",): "values of epochs that are each an integer, got '1.5'",
        ("batch_norm=5",): "values of batch_norm that are each true or false, got '5'",
        ("hidden=5;x",): "that are each integers as a list 0,1,2;",
        ("l2=1e-4,0.0001",): "every value of l2 once, got 0.0001 twice",
        ("batch_norm=true,1",): "every value of batch_norm once, got True twice",
        ("l2=0,1", "l2=2"): "every field once, got l2 twice",
        ("activation=relu,swish", "l2=0"): "settings of a study, got "
        "activation=swish,l2=0.0 (activation: expected one of relu, sigmoid, tanh, "
        "gelu, gelu_exact, got 'swish')",
        ("dataset=a/b.npz,a-b.npz",): "runs that differ, got dataset=a-b.npz twice",
    }
    planned = {
        ("activation=relu,sigmoid", "l2=0,1e-4"): [
            "top/activation=relu,l2=0.0",
            "top/activation=relu,l2=0.0001",
            "top/activation=sigmoid,l2=0.0",
            "top/activation=sigmoid,l2=0.0001",
        ],
        # Runs on the same data together, otherwise in order.
        ("l2=0,1", "hidden=5,4;3", "split_seed=0,1"): [
            f"top/l2={l2},hidden={hidden},split_seed={split}"
            for split in (0, 1)
            for l2 in ("0.0", "1.0")
            for hidden in ("5-4", "3")
        ],
        ("quantizer=uniform:8", "dataset=../a b.npz"): [
            "top/quantizer=uniform-8,dataset=..-a-b.npz"
        ],
    }
    answers = plans(*map(list, [*refused, *planned, [f"seeds=0:100;{'1' * 9},"]]))
    for answer, expected in zip(answers, refused.values(), strict=False):
        assert answer.startswith("grid: expected ")
        assert expected in answer
    for answer, expected in zip(
        answers[len(refused) :], planned.values(), strict=False
    ):
        assert answer == expected
    long, short = answers[-1]
    assert len(pathlib.Path(long).name) == 120
    assert short == "top/seeds=111111111"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid=l2=a"], "grid: expected values of l2 that are each a number, got"),
        (
            ["--grid=l2=0", "--workdir={top}/file/runs"],
            "workdir: expected a folder that can be written, got {top}/file/runs (Not",
        ),
        (
            ["--grid_file={top}/none.txt"],
            "grid_file: expected a text file, got '{top}/none.txt' (No such file",
        ),
        (
            ["--grid=l2=0", "--dataset={top}/none.npz"],
            "dataset: expected a file, got '{top}/none.npz'",
        ),
    ],
)
def test_what_concerns_every_run_ends_at_once(flags, message, tmp_path):
    (tmp_path / "file").write_text("")
    given = [flag.replace("{top}", str(tmp_path)) for flag in flags]
    done = sweep(f"--workdir={tmp_path / 'runs'}", *SMALL, *given)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    expected = message.replace("{top}", str(tmp_path))
    assert done.stderr.startswith(f"error: {expected}")


def test_help_names_the_flags():
    done = sweep("--help")
    for flag in ("--grid:", "--grid_file:", "--[no]dry_run", "--hidden:", "--workdir:"):
        assert flag in done.stdout


def test_a_process_ends_with_the_code_and_the_line():
    done = processes.run("-m", "experiments.sweep", "--grid=l2=a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: grid: expected values of l2 that are each a")
    assert done.stderr.count("\n") == 1

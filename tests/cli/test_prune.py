"""The pruning job: what it finds, goes on with, and refuses."""

import html
import json
import shutil
from functools import partial

import command_line
import jax
import numpy as np
import pandas as pd
import processes
import pytest
from conftest import compilations
from reference import forward

import ioca_jax as ioca
from ioca_jax.ablation.pruning import num_parameters, prune
from ioca_jax.cli import prune as prune_job
from ioca_jax.results.files import write_results
from ioca_jax.study import pruned as pruned_study

CONFIG = ioca.StudyConfig(
    seeds=(3, 0),
    hidden=(12, 9),
    epochs=1,
    random_orders=0,
    batch_norm=True,
    permutations=0,
    measures=("entropy", "mutual_information"),
)
KEEP = (0.5, 0.1)
SIZES = ((6, 5), (2, 1))
FLAGS = ["--keep=0.5,0.1", "--learning_rate=0.002", "--retrain_epochs=2"]


run = partial(command_line.run, "experiments.prune")


class Killed(BaseException):
    """In place of the end of the process."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prune") / "study"
    ioca.run_study(CONFIG, folder, draw=False)
    return folder


@pytest.fixture(scope="module")
def stopped(study):
    """A folder with the results of five combinations, and what they compiled."""
    folder, written = study.parent / "stopped", []
    where = (f"--study={study}", f"--workdir={folder}")
    write = prune_job._write

    def write_and_stop(results, path):
        write(results, path)
        written.append(path)
        if len(written) == 5:
            raise Killed

    options = command_line.parsed("experiments.prune", *FLAGS, *where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune_job, "_write", write_and_stop)
        with compilations() as compiled, pytest.raises(Killed):
            prune_job.main(*options)
    assert not (folder / "pruning.nc").exists()
    return folder, compiled


@pytest.fixture(scope="module")
def pruned(study, stopped):
    """The folder of a job that was stopped and went on."""
    folder = study.parent / "pruned"
    shutil.copytree(stopped[0], folder)
    done = run(*FLAGS, f"--study={study}", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder, done.stdout


def test_measures_clamps_and_seeds_share_programs(stopped):
    """Five combinations of one size."""
    _, compiled = stopped
    for name in (
        *("_first_of_every_layer", "_without_the_others", "_initial_states"),
        *("_train_epoch", "_apply"),
    ):
        assert compiled.count(f"jit({name})") == 1, compiled


def test_what_was_finished_is_not_computed_again(stopped, pruned):
    before = ioca.load_results(stopped[0] / "unfinished.nc")
    after = ioca.load_results(pruned[0] / "pruning.nc")
    assert int(before["finished"].sum()) == 5
    finished = before["accuracy"].where(before["finished"])
    np.testing.assert_array_equal(finished, after["accuracy"].where(before["finished"]))
    assert before.attrs["created"] == after.attrs["created"]
    assert after["accuracy"].notnull().all()
    assert {path.name for path in pruned[0].iterdir()} == {
        *("pruning.nc", "pruning.csv", "pruning.png", "pruning.pdf"),
        *("summary.txt", "report.html", ".lock"),
    }
    listed = pruned[1].rsplit(f"Written to {pruned[0]}: ")[1].strip().split(", ")
    assert {*listed, ".lock"} == {path.name for path in pruned[0].iterdir()}


def test_accuracies_by_hand(study, pruned, mnist5k):
    """Whole, and of one network by an independent one."""
    results, of_study = (
        ioca.load_results(pruned[0] / "pruning.nc"),
        ioca.load_results(study),
    )
    model, variables = ioca.load_networks(study)
    assert isinstance(model, ioca.MLP)
    assert results["ranked_by"].values.tolist() == [*CONFIG.measures, "random"]
    assert results["seed"].values.tolist() == [3, 0]
    np.testing.assert_array_equal(results["neurons"], SIZES)
    smaller = [ioca.MLP(hidden=s, num_classes=10, batch_norm=True) for s in SIZES]
    expected = [num_parameters(shape, 784) for shape in smaller]
    np.testing.assert_array_equal(results["parameters"], expected)
    train = ioca.TrainConfig(epochs=2, learning_rate=0.002)
    x, y = mnist5k.test
    where = {"ranked_by": "mutual_information", "keep": 0.5, "clamp": "mean"}
    scores = of_study["score"].sel(measure="mutual_information").values
    means = of_study["activation_mean"].values
    for network, seed in enumerate((3, 0)):
        own = jax.tree.map(lambda leaf, n=network: leaf[n], variables)
        accuracy = np.mean(forward(model, own, x)[0].argmax(axis=1) == y)
        assert results["intact_accuracy"].sel(seed=seed) == pytest.approx(accuracy)
        keep = np.zeros(21, bool)
        for where_of_layer, size in zip(model.layer_slices, SIZES[0], strict=True):
            first = where_of_layer.start
            keep[first + np.argsort(-scores[network, where_of_layer])[:size]] = True
        logits, _ = forward(model, own, x, keep, means[network])
        found = results["accuracy"].sel(where | {"seed": seed})
        # A test example may lie within a rounding of a tie.
        accuracy = np.mean(logits.argmax(axis=1) == y)
        assert abs(found.sel(stage="pruned") - accuracy) <= 1.1e-3
        shape, left = prune(model, own, keep, means[network])
        trained = ioca.train(
            *(shape, mnist5k, train, (seed,)),
            initial=jax.tree.map(lambda leaf: leaf[None], left),
        )
        left = jax.tree.map(lambda leaf: leaf[0], trained.variables)
        accuracy = np.mean(forward(shape, left, x)[0].argmax(axis=1) == y)
        # Trained alone it is compiled otherwise, and batch norm amplifies rounding.
        assert abs(found.sel(stage="retrained") - accuracy) <= 0.02
    accuracy = (
        results["accuracy"].sel(keep=0.5, clamp="mean").mean(("seed", "ranked_by"))
    )
    assert accuracy.sel(stage="retrained") > accuracy.sel(stage="pruned")


def test_the_table_and_the_summary_are_means_over_networks(pruned):
    folder, printed = pruned
    results, table = (
        ioca.load_results(folder / "pruning.nc"),
        pd.read_csv(folder / "pruning.csv"),
    )
    assert table.columns.tolist() == [
        *("ranked_by", "clamp", "stage", "keep", "parameters", "share_of_parameters"),
        *("networks", "accuracy_mean", "accuracy_sd"),
        *("difference_to_random_mean", "difference_to_random_sd"),
        *("difference_to_random_low", "difference_to_random_high"),
    ]
    assert len(table) == 3 * 2 * 2 * 2
    assert set(table["networks"]) == {2}
    rows = table.set_index(["ranked_by", "clamp", "stage", "keep"])
    assert len(set(rows.index)) == len(table)
    row = dict(rows.loc["entropy", "zero", "retrained", 0.1])
    one, other = (
        results["accuracy"]
        .sel(ranked_by=name, clamp="zero", stage="retrained", keep=0.1)
        .values.astype(float)
        for name in ("entropy", "random")
    )
    for column, (first, second) in (
        ("accuracy", one),
        ("difference_to_random", one - other),
    ):
        assert row[f"{column}_mean"] == pytest.approx((first + second) / 2)
        assert row[f"{column}_sd"] == pytest.approx(abs(first - second) / 2**0.5)
    assert row["share_of_parameters"] == pytest.approx(
        row["parameters"] / results["intact_parameters"].item()
    )
    of_random = table.loc[table["ranked_by"] == "random", "difference_to_random_mean"]
    assert np.isnan(of_random).all()
    assert (
        not table["difference_to_random_low"].notna().to_numpy().any()
    )  # of two networks
    summary = (folder / "summary.txt").read_text()
    assert printed.startswith(summary)
    mean, deviation = 100 * row["accuracy_mean"], 100 * row["accuracy_sd"]
    assert f"{mean:.2f} ± {deviation:.2f}" in summary
    assert "share of each layer kept" in summary
    assert "networks 784-12-9-10 relu batch norm, of each layer the neurons" in summary


def test_a_finished_folder_is_reported_and_wrong_input_gets_one_line(
    study, pruned, tmp_path
):
    folder, printed = pruned
    computed = (folder / "pruning.nc").stat().st_mtime_ns
    (folder / "summary.txt").unlink()
    (tmp_path / "file").write_text("")
    other, failed = tmp_path / "other", tmp_path / "failed"
    shutil.copytree(study, other)
    shutil.copytree(study, failed)
    results = ioca.load_results(study)
    write_results(results.assign_attrs(data_digest="0"), other / "study.nc")
    write_results(
        results.assign(diverged=results["diverged"] | True), failed / "study.nc"
    )
    new, of = f"--workdir={tmp_path / 'new'}", f"--study={study}"
    shares = "keep: expected one or more shares of a layer in (0, 1], each once, such"
    cases = {
        (of, *FLAGS, "--clamps=zero", f"--workdir={folder}"): (
            f"workdir: expected a new folder or one of this pruning, got {folder}, "
            "which holds pruning.nc of other settings (clamps ['zero', 'mean'], not "
            "['zero']); choose another workdir"
        ),
        (of, f"--workdir={study}"): (
            f"workdir: expected a folder of its own, got {study}, which holds a study;"
        ),
        (of, f"--workdir={tmp_path}/file/new"): (
            "workdir: expected a folder that can be written, got "
        ),
        (f"--study={tmp_path}", new): "expected the results of a finished run at ",
        (f"--study={other}", new): (
            "study: expected the images and labels of mnist5k that the study was run on"
        ),
        (f"--study={failed}", new): (
            "study: expected a study with a network that converged, got 2 that diverged"
        ),
        (of, "--keep=0.5,0", new): f"{shares} as 0.5,0.25, got '0.5,0.0'",
        (
            of,
            "--keep=half",
            new,
        ): "keep: expected shares of a layer such as 0.5,0.25, got 'half'",
        (of, "--keep=0.5,.5", new): f"{shares} as 0.5,0.25, got '0.5,0.5'",
        (of, "--measures=entropy,depth", new): (
            "measures: expected one or more of entropy, mutual_information, each once, "
            "got 'entropy,depth'"
        ),
        (of, "--clamps=one", new): "clamps: expected one or more of zero, mean, each",
        (of, "--learning_rate=0", new): (
            "learning_rate: expected a positive number, got 0.0"
        ),
    }
    # The finished folder first: its dataset is not even looked for.
    finished = (of, *FLAGS, f"--workdir={folder}", "--data_dir=/nowhere")
    done = run(*finished)
    assert done == (0, printed, "")
    assert (folder / "pruning.nc").stat().st_mtime_ns == computed
    assert printed.startswith((folder / "summary.txt").read_text())
    for given, expected in cases.items():
        done = run(*given)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {expected}")
        assert done.stderr.count("\n") == 1
    done = processes.run("-m", "experiments.prune", of, "--keep=2", new)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {shares} as 0.5,0.25, got '2.0'\n"
    assert not (tmp_path / "new").exists()


def test_shares_are_rounded_up_and_diverged_networks_left_out(study, tmp_path):
    """A seed alone cannot be made to diverge, so it is said of one here."""
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    results = ioca.load_results(study)
    # And of a shard: two more seeds are elsewhere.
    fields = json.loads(results.attrs["configuration"]) | {"seeds": [3, 0, 7, 8]}
    results = results.assign_attrs(configuration=json.dumps(fields))
    write_results(results.assign(diverged=("seed", [True, False])), folder / "study.nc")
    study_left = pruned_study.read_study(folder)
    (options,) = command_line.parsed("experiments.prune", *FLAGS)
    pruning = options.pruning(study_left)
    empty = pruned_study.empty_results(study_left, pruning)
    wide = ioca.MLP(hidden=(30, 100, 7), num_classes=2)
    sizes = [list(pruning.sizes(s, wide)) for s in (0.1, 0.29, 0.501, 1e-3, 1.0)]
    assert empty["seed"].values.tolist() == [0]
    _, variables = ioca.load_networks(study)
    np.testing.assert_array_equal(
        study_left.variables["params"]["dense_2"]["bias"],
        variables["params"]["dense_2"]["bias"][1:],
    )
    assert empty.attrs["networks_left_out"] == 1
    assert sizes == [[3, 10, 1], [9, 29, 3], [16, 51, 4], [1, 1, 1], [30, 100, 7]]


def of_six_networks(results):
    """The same combinations with accuracies whose order is known."""
    six = results.isel(seed=[0] * 6).assign_coords(seed=np.arange(6))
    accuracy = np.full(six["accuracy"].shape, 0.5)
    # entropy differs by -3 to -0.5 points, mutual information by -2.5 to 2.5.
    accuracy[:, 0] -= 0.005 * np.arange(1, 7)[:, None, None, None]
    accuracy[:, 1] += 0.01 * (np.arange(6) - 2.5)[:, None, None, None]
    six = six.assign(accuracy=(results["accuracy"].dims, accuracy))
    return six.assign(intact_accuracy=("seed", np.full(6, 0.9)))


def text_of(page):
    """A page's text with ordinary spaces."""
    return html.unescape(page.read_text()).replace("\u00a0", " ")


def test_the_page_has_the_accuracies_and_links_to_the_study(study, pruned, tmp_path):
    page = text_of(pruned[0] / "report.html")
    table = pd.read_csv(pruned[0] / "pruning.csv")
    rows = table.set_index(["ranked_by", "clamp", "stage", "keep"])["accuracy_mean"]
    random = 100 * rows["random", "mean", "retrained", 0.1]
    assert f"and {random:.2f} % with random pruning." in page
    assert "2 networks: an interval needs 3 or more." in page
    assert f'href="../{study.name}/report.html"' in page
    assert "<dfn>normalised area</dfn>" not in page  # there are no curves
    results = of_six_networks(ioca.load_results(pruned[0] / "pruning.nc"))
    prune_job.report(results, tmp_path, str(tmp_path / "gone"))
    page = text_of(tmp_path / "report.html")
    assert "href" not in page.split('id="runs"')[1].split("</details>")[0]
    assert (
        "Retrained for 2 epochs, with 10 % of each layer kept and removed neurons "
        "clamped to zero, mean test accuracy is from 48.25 % (entropy) to 50.00 % "
        "(mutual information), and 50.00 % with random pruning. Of 2 measures, 0 "
        "are better than random pruning and 1 worse (95 % intervals, each measure by "
        "itself)."
    ) in page
    # All 64 subsets of six values: the extremes that 5 % leave are the values' own.
    row = pd.read_csv(tmp_path / "pruning.csv").set_index("ranked_by").loc["entropy"]
    np.testing.assert_allclose(row["difference_to_random_low"], -0.03)
    np.testing.assert_allclose(row["difference_to_random_high"], -0.005)

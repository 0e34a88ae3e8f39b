r"""Searches training settings for those that give the paper's first published curves.

  python -m experiments.first_version --data_dir=data --workdir=runs/first_version

The first version of the paper (2018) gives the network, 784-100-100-10 with sigmoid,
and Adam at 1e-3 with batches of 32, but not the initialisation, the weight or kind of
the L2 penalty, the biases, the number of epochs or the scaling of inputs. Each setting
here changes some of these from the first, Glorot initialisation and no penalty; four
networks each, a folder each, as run_study leaves it. What is finished is not run again.

Beside the folders lie points.csv, every published point beside that of each setting;
settings.png, the curves that no setting of ours had met; and results.md, which is
printed.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pandas as pd
import xarray as xr
from absl import flags, logging
from matplotlib.figure import Figure

import ioca_jax as ioca
from ioca_jax.plots import save_figure
from ioca_jax.results.files import RESULTS_FILE, atomic_write
from ioca_jax.results.selection import intact_accuracy

from . import config_flags
from .markdown import markdown
from .published import STEPS, published_points

WORKDIR = flags.DEFINE_string("workdir", "runs/first_version", "Where everything goes.")
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "TensorFlow Datasets' directory; its own default if not given.",
)
flags.adopt_module_key_flags(config_flags)  # --help lists them

_TOLERANCE = 0.03
_PIXEL_MEAN, _PIXEL_DEVIATION = 0.1307, 0.3081  # of MNIST's training images
_INITIAL: dict[str, Callable] = {
    "glorot uniform": jax.nn.initializers.glorot_uniform(),
    "glorot normal": jax.nn.initializers.glorot_normal(),
    "lecun normal": jax.nn.initializers.lecun_normal(),
    "truncated normal 0.1": jax.nn.initializers.truncated_normal(0.1),
    "normal 1": jax.nn.initializers.normal(1.0),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How networks are trained.

    Attributes:
        initial: of the kernels; a key of ``_INITIAL``.
        bias: initial value; None for networks without biases.
        l2: weight of the sum of squared kernel entries in the loss.
        penalise_biases: whether those of the biases are in the sum.
        decay: weight decay of AdamW, of all parameters.
        epochs: passes over the training split.
        best_epoch: keep the network of the epoch of highest validation accuracy.
        epsilon: Adam's.
        standardise: inputs of mean 0 and deviation 1, rather than from 0 to 1.
    """

    initial: str = "glorot uniform"
    bias: float | None = 0.0
    l2: float = 0.0
    penalise_biases: bool = False
    decay: float = 0.0
    epochs: int = 10
    best_epoch: bool = False
    epsilon: float = 1e-8
    standardise: bool = False


SETTINGS = {
    "glorot": Training(),
    "glorot_normal": Training(initial="glorot normal"),
    "lecun_normal": Training(initial="lecun normal"),
    "truncated_normal": Training(initial="truncated normal 0.1", bias=0.1),
    "normal_1": Training(initial="normal 1"),
    "without_biases": Training(bias=None),
    "l2_1e-5": Training(l2=1e-5),
    "l2_1e-4": Training(l2=1e-4),
    "l2_5e-4": Training(l2=5e-4),
    "l2_1e-4_biases": Training(l2=1e-4, penalise_biases=True),
    "l2_5e-4_biases": Training(l2=5e-4, penalise_biases=True),
    "decay_1e-2": Training(decay=1e-2),
    "epsilon_1e-4": Training(epsilon=1e-4),
    "standardised": Training(standardise=True),
    "standardised_l2_1e-4": Training(standardise=True, l2=1e-4),
    "epochs_5": Training(epochs=5),
    "epochs_20": Training(epochs=20),
    "epochs_20_l2_1e-4": Training(epochs=20, l2=1e-4),
    "without_biases_l2_1e-4": Training(bias=None, l2=1e-4),
    "epochs_30": Training(epochs=30),
    "truncated_normal_epochs_20": Training(
        initial="truncated normal 0.1", bias=0.1, epochs=20
    ),
    "lecun_normal_epochs_20": Training(initial="lecun normal", epochs=20),
    "decay_1e-2_epochs_20": Training(decay=1e-2, epochs=20),
    "best_of_50": Training(epochs=50, best_epoch=True),
}
_STUDY: dict[str, Any] = {
    "dataset": "mnist",
    "seeds": (0, 1, 2, 3),
    "activation": "sigmoid",
    "hidden": (100, 100),
    "measures": ("mutual_information", "kl_selectivity"),
    "permutations": 0,
}


def _initialise(training: Training, model: ioca.MLP, key: jax.Array, inputs: int):
    """Parameters of one network."""
    params = model.init(key, jnp.zeros((1, inputs)))["params"]

    def draw(path, leaf):
        name, number = path[-1].key, int(path[-2].key.split("_")[1])
        if name == "bias":
            return jnp.full_like(leaf, training.bias or 0.0)
        own = jax.random.fold_in(key, number)
        return _INITIAL[training.initial](own, leaf.shape, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, params)


def _but_biases(path, leaf: jax.Array) -> jax.Array:
    return jnp.zeros_like(leaf) if path[-1].key == "bias" else leaf


@partial(jax.jit, static_argnums=(0, 1))
def _train_one(training: Training, model: ioca.MLP, key, train, validation):
    """Parameters of one trained network."""
    (x, y), (x_validation, y_validation), batch_size = train, validation, 32
    steps = len(y) // batch_size
    optimizer = optax.adamw(1e-3, eps=training.epsilon, weight_decay=training.decay)

    def penalty(params):
        return sum(
            jnp.sum(jnp.square(leaf))
            for layer in params.values()
            for name, leaf in layer.items()
            if name == "kernel" or training.penalise_biases
        )

    def loss_of(params, batch):
        logits, _ = model.apply({"params": params}, x[batch])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y[batch])
        return losses.mean() + training.l2 * penalty(params)

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(
            jax.grad(loss_of)(params, batch), state, params
        )
        if training.bias is None:
            updates = jax.tree_util.tree_map_with_path(_but_biases, updates)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry, key):
        params, state, best, highest = carry
        order = jax.random.permutation(key, len(y))[: steps * batch_size]
        batches = order.reshape(steps, -1)
        (params, state), _ = jax.lax.scan(step, (params, state), batches)
        logits, _ = model.apply({"params": params}, x_validation)
        accuracy = jnp.mean(logits.argmax(axis=-1) == y_validation)
        keep = not training.best_epoch or accuracy > highest
        best = jax.tree.map(lambda new, old: jnp.where(keep, new, old), params, best)
        return (params, state, best, jnp.maximum(accuracy, highest)), None

    initial_key, key = jax.random.split(key)
    params = _initialise(training, model, initial_key, x.shape[1])
    carry = params, optimizer.init(params), params, jnp.float32(0)
    keys = jax.random.split(key, training.epochs)
    return jax.lax.scan(epoch, carry, keys)[0][2]


def run_setting(
    training: Training, config: ioca.StudyConfig, data: ioca.Dataset, folder: Any
) -> xr.Dataset:
    """The results of a setting, from its folder where they are finished."""
    told = folder / "training.txt"
    if (folder / RESULTS_FILE).exists():
        if told.read_text("utf-8") != str(training):
            raise ValueError(
                f"workdir: expected results of this training, got {folder} with "
                f"those of {told.read_text('utf-8')}; choose another workdir"
            )
        return ioca.load_results(folder)
    scaled = data
    if training.standardise:
        scaled = dataclasses.replace(
            data,
            **{
                name: ioca.Split((split.x - _PIXEL_MEAN) / _PIXEL_DEVIATION, split.y)
                for name in ("train", "validation", "test")
                for split in [getattr(data, name)]
            },
        )
    model = config.model(data.num_classes)
    train, validation = (
        (jnp.asarray(split.x.reshape(len(split.y), -1)), jnp.asarray(split.y))
        for split in (scaled.train, scaled.validation)
    )
    keys = jnp.stack([jax.random.key(seed) for seed in config.seeds])
    params = jax.lax.map(
        lambda key: _train_one(training, model, key, train, validation), keys
    )
    folder.mkdir(parents=True, exist_ok=True)
    told.write_text(str(training), "utf-8")
    return ioca.run_study(
        config,
        folder,
        data=scaled,
        network=model,
        variables={"params": params},
        draw=False,
    )


def compare(
    points: Mapping[str, pd.DataFrame], errors: Mapping[str, str]
) -> pd.DataFrame:
    """A row per setting: how many published points it meets, and where it is far."""
    rows = []
    for name, table in points.items():
        known = table.dropna(subset="accuracy")
        far = known["difference"].abs()
        met, largest = _agreement(known)
        layer_2 = known.query("scope == 'layer_2' and clamp == 'zero' and step == 79")
        row = {"setting": name, "test error (%)": errors[name]}
        row |= {
            f"within {_TOLERANCE} of {len(known)}": met,
            "largest difference": f"{-largest:.3f}",
            "median": f"{far.median():.3f}",
        }
        for ranked, title in (("mutual_information", "MI"), ("random", "random")):
            at = layer_2.query(f"ranked_by == '{ranked}'")
            row[f"layer 2, zero, 79 ablated, {title}"] = f"{at['ours'].item():.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


def draw(points: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy in layer 2 with the zero clamp: published points, and every setting.

    The setting that meets most points, and then has the least largest difference, is
    drawn apart.
    """
    best = max(points, key=lambda name: _agreement(points[name]))
    figure, panels = plt.subplots(1, 2, figsize=(7, 3), sharey=True, layout="tight")
    titles = {"mutual_information": "lowest first", "random": "random order"}
    for panel, (ranked, title) in zip(panels, titles.items(), strict=True):
        wanted = f"scope == 'layer_2' and clamp == 'zero' and ranked_by == '{ranked}'"
        lines = {name: table.query(wanted) for name, table in points.items()}
        for name, line in lines.items():
            look: dict[str, Any] = {"color": "0.6", "linewidth": 0.8, "label": "others"}
            if SETTINGS[name].l2:
                look |= {"color": "C1", "linestyle": "--", "label": "L2 in the loss"}
            if name == best:
                look = {"color": "C0", "linewidth": 2, "label": name, "zorder": 3}
            panel.plot(STEPS, line["ours"], **look)
        published = next(iter(lines.values()))["accuracy"]
        panel.plot(STEPS, published, "k*", label="published", zorder=4)
        panel.set(title=f"Layer 2, {title}", xlabel="ablated neurons of 100")
    panels[0].set_ylabel("test accuracy, zero clamp")
    handles, labels = panels[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    panels[0].legend(once.values(), once.keys(), fontsize=8, loc="lower left")
    return figure


def _agreement(table: pd.DataFrame) -> tuple[int, float]:
    """How many points are met, and the largest difference, negative."""
    far = np.abs(table["difference"].to_numpy(np.float64))
    return int((far <= _TOLERANCE).sum()), -float(np.nanmax(far))


def main() -> None:
    """Runs what is not finished, and compares the settings."""
    folder = pathlib.Path(WORKDIR.value)
    config = ioca.StudyConfig(data_dir=DATA_DIR.value, **_STUDY)
    data = ioca.load_dataset(**config.data_arguments())
    points, errors = {}, {}
    for number, (name, training) in enumerate(SETTINGS.items(), 1):
        logging.info("setting %d of %d: %s", number, len(SETTINGS), name)
        results = run_setting(training, config, data, folder / name)
        points[name] = published_points(results)
        error = 100 * (1 - intact_accuracy(results))
        errors[name] = f"{error.mean():.2f} ± {np.std(error, ddof=1):.2f}"
    table = pd.concat(p.assign(setting=name) for name, p in points.items())
    atomic_write(folder / "points.csv", partial(table.to_csv, index=False))
    save_figure(draw(points), folder / "settings")
    text = markdown(compare(points, errors)) + "\n"
    atomic_write(folder / "results.md", lambda part: part.write_text(text, "utf-8"))
    print(text)


if __name__ == "__main__":
    config_flags.run_main(main)

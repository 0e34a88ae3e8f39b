"""Networks that the questions are asked of, and what ablating their units costs.

Both settings are trained on 5,000 MNIST digits, twelve networks each: the least p-value
of a sign-flip test is then 2 / 2^12. A job's folder holds a run of each, as ``ioca
run`` leaves it, and a job that was interrupted goes on with them.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Bool, Float

import ioca_jax as ioca
from ioca_jax.checks import check_names
from ioca_jax.inference.families import above_chance
from ioca_jax.study import events

CLAMPS = ("zero", "mean")
COSTS = ("loss", "accuracy", "kl")
UNITS = {"loss": "nats", "accuracy": "share", "kl": "nats"}
_BATCH = 64
# Float32 means of losses differ by as much where the networks do the same.
_RESOLUTION = 1e-7

_COMMON: dict[str, Any] = {
    "dataset": "mnist5k",
    "seeds": tuple(range(12)),
    "clamps": CLAMPS,
    "measures": (
        "experiments.questions.studies:gradient_norm",
        *(
            f"{name}_{clamp}"
            for name in ("taylor", "ablation_loss")
            for clamp in CLAMPS
        ),
    ),
    # The curves of a run are not used here.
    "random_orders": 0,
    "points": "2",
    "permutations": 0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "dense": {"hidden": (60, 60, 60), "epochs": 10},
    "convolution": {
        "architecture": "cnn",
        "channels": (8, 16),
        "hidden": (32,),
        "epochs": 5,
        "num_test": 500,
    },
}


def gradient_norm(measured: ioca.Measurement) -> Float[Array, " H"]:
    """How much the loss changes with the weights into each unit of an ``MLP`` or CNN.

    The Euclidean norm of the gradient of a batch's mean loss, mean over batches of 64
    examples of the measuring split; the examples that fill no batch are left out.
    """
    x, y = jnp.asarray(measured.x), measured.y
    number = len(y) // _BATCH
    used = slice(number * _BATCH)
    batches = (
        x[used].reshape(number, _BATCH, *x.shape[1:]),
        y[used].reshape(number, _BATCH),
    )

    def loss(variables, images, labels):
        logits, _ = measured.network.apply(variables, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    def norms(batch):
        gradients = jax.grad(loss)(measured.variables, *batch)["params"]
        named = [
            gradients[f"{kind}_{index}"]["kernel"]
            for kind in ("conv", "dense")
            for index in range(len(gradients))
            if f"{kind}_{index}" in gradients
        ]
        kernels = [kernel.reshape(-1, kernel.shape[-1]) for kernel in named[:-1]]
        return jnp.concatenate([jnp.linalg.norm(kernel, axis=0) for kernel in kernels])

    return jax.lax.map(norms, batches).mean(axis=0)


class Networks(NamedTuple):
    """Trained networks that are better than chance.

    Attributes:
        results: of their run.
        model: what they compute.
        variables: leaves begin with S.
        clamps: float32 [S, A, H], a constant for each of ``CLAMPS``.
        test: the split on which units are ablated; scores are of the validation split.
    """

    results: xr.Dataset
    model: Any
    variables: Any
    clamps: Float[np.ndarray, "S A H"]
    test: ioca.Split

    @property
    def layers(self) -> dict[str, np.ndarray]:
        """The units of each layer, by its name."""
        numbers = self.model.layer_of_neuron
        return {
            layer.name: np.flatnonzero(numbers == index)
            for index, layer in enumerate(self.model.layers)
        }

    def score(self, measure: str) -> Float[np.ndarray, "S H"]:
        """A score of the validation split."""
        found = self.results["score"].sel(measure=measure).transpose("seed", "neuron")
        return found.values.astype(np.float64)


def check_settings(asked: Sequence[str]) -> Sequence[str]:
    """The settings asked for, all if none; refuses unknown ones."""
    if asked:
        check_names("settings", asked, SETTINGS)
    return asked or list(SETTINGS)


def study_networks(setting: str, folder: pathlib.Path, **fields: Any) -> Networks:
    """Trains a setting's networks, or goes on with their run in the folder."""
    config = ioca.StudyConfig(**_COMMON | SETTINGS[setting] | fields)
    listeners = [events.log_lines()]
    results = ioca.run_study(
        config, folder, draw=False, progress=True, listeners=listeners
    )
    results = above_chance(results)
    model, variables = ioca.load_networks(folder, results["seed"].values.tolist())
    means = results["activation_mean"].transpose("seed", "neuron").values
    clamps = np.stack([np.zeros_like(means), means], axis=1)
    test = ioca.load_dataset(**config.data_arguments()).test
    return Networks(results, model, variables, clamps, test)


def ablation_costs(
    network: Any,
    variables: Any,
    masks: Bool[np.ndarray, "S #A M H"],
    clamps: Float[np.ndarray, "S A H"],
    test: ioca.Split,
) -> dict[str, Float[np.ndarray, "S A M"]]:
    """What each mask costs under each clamp, by ``COSTS``.

    The loss gained, the accuracy lost, and the divergence of the ablated network's
    output distribution from the intact network's, which needs no labels.
    """
    intact = np.ones((*masks.shape[:2], 1, masks.shape[-1]), bool)
    masks = np.concatenate([intact, masks], axis=2)
    found: dict[str, list[np.ndarray]] = {name: [] for name in COSTS}
    for seed in range(len(clamps)):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        evaluated = ioca.evaluate_masks(
            network,
            one,
            masks[seed],
            clamps[seed][:, None],
            *test,
            metrics=("kl",),
        )
        metrics = jax.device_get(evaluated.metrics)
        for name, sign in (("loss", 1), ("accuracy", -1), ("kl", 1)):
            values = metrics[name].astype(np.float64)
            costs = sign * (values[:, 1:] - values[:, :1])
            found[name].append(np.where(np.abs(costs) < _RESOLUTION, 0, costs))
    return {name: np.stack(parts) for name, parts in found.items()}


def alone(num_neurons: int) -> Bool[np.ndarray, "1 1 H H"]:
    """Masks that ablate each unit alone, for all networks and clamps."""
    return ~np.eye(num_neurons, dtype=bool)[None, None]


def costs_once_others_are_gone(
    model: Any,
    variables: Any,
    removed: Bool[np.ndarray, "S A H"],
    clamps: Float[np.ndarray, "S A H"],
    test: ioca.Split,
) -> dict[str, Float[np.ndarray, "S A H"]]:
    """What ablating each unit alone costs in networks without some other units.

    The reference is the network without those; NaN for the units that are gone.
    """
    num_seeds, num_clamps, num_neurons = removed.shape
    masks = np.broadcast_to(
        alone(num_neurons), (num_seeds, 1, num_neurons, num_neurons)
    )
    parts: list[Mapping[str, np.ndarray]] = []
    network = None
    for at in range(num_clamps):
        without = {
            "network": variables,
            "keep": jnp.asarray(~removed[:, at]),
            "clamp": jnp.asarray(clamps[:, at]),
        }
        if network is None:
            one = jax.tree.map(lambda leaf: leaf[0], without)
            network = ioca.trace_network(_without(model), one, test.x)
        constants = clamps[:, at : at + 1]
        parts.append(ablation_costs(network, without, masks, constants, test))
    return {
        name: np.where(removed, np.nan, np.concatenate([p[name] for p in parts], 1))
        for name in COSTS
    }


def _without(model: Any) -> Any:
    """The function of a network some of whose units are ablated for good."""

    def apply(variables, x):
        ablation = ioca.Ablation(variables["keep"], variables["clamp"])
        return model.apply(variables["network"], x, ablation)[0]

    return apply

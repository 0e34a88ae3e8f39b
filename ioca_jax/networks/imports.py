"""Fully-connected classifiers of scikit-learn and PyTorch as an ``MLP``.

Networks of other kinds need no import: ``trace_network`` takes any JAX function.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ioca_jax.networks.layered import ACTIVATIONS, BATCH_NORM_EPSILON
from ioca_jax.networks.mlp import MLP

_INSTEAD = (
    "; write the network as a JAX function of (variables, x) and use trace_network"
)
_SKLEARN_ACTIVATIONS = {"relu": "relu", "logistic": "sigmoid", "tanh": "tanh"}
_TORCH_ACTIVATIONS = {"ReLU": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


class _Dense(NamedTuple):
    """An affine map [inputs, outputs] and what follows it."""

    kernel: np.ndarray
    bias: np.ndarray
    norm: dict[str, np.ndarray] | None = None  # scale, bias, mean, var


def from_sklearn(classifier: Any) -> tuple[MLP, dict[str, Any]]:
    """The network of a fitted scikit-learn ``MLPClassifier``.

    Args:
        classifier: of two or more classes. Class c of the network is
            ``classifier.classes_[c]``. Of two classes, scikit-learn computes one logit
            z; the network's logits are then (0, z), of the same probabilities.

    Returns:
        The network and its variables, float32.

    Raises:
        ValueError: not a fitted ``MLPClassifier``, one that predicts several labels an
            example, or of an activation that ``MLP`` has not.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> from sklearn.neural_network import MLPClassifier
        >>> x, y = np.arange(20.0)[:, None], np.arange(20) // 10
        >>> classifier = MLPClassifier((3,), solver="lbfgs", random_state=0).fit(x, y)
        >>> network, variables = ioca.from_sklearn(classifier)
        >>> network.hidden, network.num_classes
        ((3,), 2)
    """
    if not hasattr(classifier, "coefs_") or not hasattr(classifier, "classes_"):
        raise ValueError(
            "classifier: expected a fitted MLPClassifier of scikit-learn, got "
            f"{type(classifier).__name__}"
        )
    if classifier.activation not in _SKLEARN_ACTIVATIONS:
        raise ValueError(
            f"classifier: expected the activation {', '.join(_SKLEARN_ACTIVATIONS)}, "
            f"got {classifier.activation}{_INSTEAD}"
        )
    pairs = zip(classifier.coefs_, classifier.intercepts_, strict=True)
    layers = [_Dense(kernel, bias) for kernel, bias in pairs]
    if classifier.out_activation_ == "logistic":
        if len(classifier.classes_) != 2:
            raise ValueError(
                "classifier: expected one label for each example, got "
                f"{len(classifier.classes_)} labels{_INSTEAD}"
            )
        kernel, bias, _ = layers[-1]
        layers[-1] = _Dense(np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0)))
    return _network(layers, _SKLEARN_ACTIVATIONS[classifier.activation])


def from_torch(
    module: Any, *, activation: str | None = None
) -> tuple[MLP, dict[str, Any]]:
    """The network of a PyTorch ``nn.Sequential``, or of a ``state_dict``.

    Args:
        module: ``Linear`` layers, after each but the last optionally ``BatchNorm1d``,
            then ``ReLU``, ``Sigmoid`` or ``Tanh``, the same after all; ``Flatten``,
            ``Dropout`` and ``Identity`` may stand anywhere. Or the ``state_dict`` of
            such a network.
        activation: ``relu``, ``sigmoid`` or ``tanh``; for a ``state_dict``, which does
            not contain it, and for nothing else.

    Returns:
        The network at inference and its variables, float32.

    Raises:
        ValueError: anything else.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> state_dict = {  # of nn.Sequential(Linear(4, 3), ReLU(), Linear(3, 2))
        ...     **{"0.weight": np.ones((3, 4)), "0.bias": np.zeros(3)},
        ...     **{"2.weight": np.ones((2, 3)), "2.bias": np.zeros(2)},
        ... }
        >>> network, variables = ioca.from_torch(state_dict, activation="relu")
        >>> network.hidden, network.num_classes
        ((3,), 2)
    """
    if isinstance(module, Mapping):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {', '.join(ACTIVATIONS)}, which a "
                f"state_dict does not contain, got {activation!r}"
            )
        return _network(_layers_of_state(module), activation)
    if activation is not None:
        raise ValueError(
            f"activation: expected None, as the module has its own, got {activation!r}"
        )
    if type(module).__name__ != "Sequential":
        raise ValueError(
            "module: expected an nn.Sequential or a state_dict, got "
            f"{type(module).__name__}{_INSTEAD}"
        )
    activation = _activation_of(_flat_names(module))  # checks the layers first
    return _network(_layers_of_state(module.state_dict()), activation)


def _flat_names(module: Any) -> list[str]:
    """The types of all layers in a Sequential, nested ones too, in order."""
    names = []
    for child in module:
        if type(child).__name__ == "Sequential":
            names += _flat_names(child)
            continue
        name = type(child).__name__
        epsilon = getattr(child, "eps", BATCH_NORM_EPSILON)
        if name == "BatchNorm1d" and (
            epsilon != BATCH_NORM_EPSILON or child.running_mean is None
        ):
            raise ValueError(
                f"module: expected BatchNorm1d with running statistics and eps "
                f"{BATCH_NORM_EPSILON}, got {child}{_INSTEAD}"
            )
        if name not in ("Flatten", "Dropout", "Identity"):
            names.append(name)
    return names


def _activation_of(names: Sequence[str]) -> str:
    """The activation of an MLP's layers; refuses the layers of other networks."""
    found = sorted({_TORCH_ACTIVATIONS[n] for n in names if n in _TORCH_ACTIVATIONS})
    hidden = ["Linear", "BatchNorm1d"] if "BatchNorm1d" in names else ["Linear"]
    block = [*hidden, *(n for n in names if n in _TORCH_ACTIVATIONS)][: len(hidden) + 1]
    number = names.count("Linear") - 1
    if len(found) != 1 or list(names) != [*(block * number), "Linear"]:
        raise ValueError(
            "module: expected Linear, BatchNorm1d if any, and the same activation "
            f"(ReLU, Sigmoid or Tanh), repeated, then Linear, got {', '.join(names)}"
            f"{_INSTEAD}"
        )
    return found[0]


def _layers_of_state(state: Mapping[str, Any]) -> list[_Dense]:
    """The affine maps of a state_dict, in order, with the batch norm after each."""
    by_module: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        path, _, field = name.rpartition(".")
        if hasattr(value, "detach"):  # a tensor, on a GPU and of 16 bits, it may be
            value = value.detach().cpu().float()
        by_module.setdefault(path, {})[field] = np.asarray(value)
    layers: list[_Dense] = []
    for path, fields in by_module.items():
        weight = fields.get("weight", np.zeros(0))
        if weight.ndim == 2 and fields.keys() <= {"weight", "bias"}:
            bias = fields.get("bias", np.zeros(len(weight)))
            layers.append(_Dense(weight.T, bias))
        elif weight.ndim == 1 and "running_var" in fields and layers:
            norm = {
                "scale": weight,
                "bias": fields["bias"],
                "mean": fields["running_mean"],
                "var": fields["running_var"],
            }
            layers[-1] = layers[-1]._replace(norm=norm)
        else:
            shapes = ", ".join(f"{f} {list(a.shape)}" for f, a in fields.items())
            raise ValueError(
                "module: expected weights of Linear and BatchNorm1d layers alone, got "
                f"{path or 'the module'} with {shapes}{_INSTEAD}"
            )
    return layers


def _network(layers: Sequence[_Dense], activation: str) -> tuple[MLP, dict[str, Any]]:
    """The MLP of some affine maps, the last to the logits, and its variables."""
    widths = [len(layer.bias) for layer in layers]
    inputs = [len(layer.kernel) for layer in layers]
    normed = [layer.norm is not None for layer in layers]
    if len(layers) < 2 or inputs[1:] != widths[:-1]:
        raise ValueError(
            "expected two or more layers, each with as many inputs as the one below "
            f"has outputs, got inputs {inputs} and outputs {widths}{_INSTEAD}"
        )
    if any(normed) and normed != [True] * (len(layers) - 1) + [False]:
        raise ValueError(
            "expected batch norm after every hidden layer or after none, got it after "
            f"{sum(normed)} of {len(layers)} layers{_INSTEAD}"
        )
    network = MLP(
        hidden=tuple(widths[:-1]),
        num_classes=widths[-1],
        activation=activation,
        batch_norm=any(normed),
    )
    params, running = {}, {}
    for index, (kernel, bias, norm) in enumerate(layers):
        params[f"dense_{index}"] = {"kernel": _float32(kernel), "bias": _float32(bias)}
        if norm:
            norm = {name: _float32(values) for name, values in norm.items()}
            params[f"norm_{index}"] = {k: norm[k] for k in ("scale", "bias")}
            running[f"norm_{index}"] = {k: norm[k] for k in ("mean", "var")}
    variables: dict[str, Any] = {"params": params}
    return network, variables | ({"batch_stats": running} if running else {})


def _float32(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)

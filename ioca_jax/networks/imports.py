"""Fully-connected classifiers of scikit-learn and PyTorch as an ``MLP``.

Networks of other kinds need no import: ``trace_network`` takes any JAX function.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ioca_jax.networks.models import BATCH_NORM_EPSILON, MLP

_INSTEAD = (
    "; write the network as a JAX function of (variables, x) and use trace_network"
)
_SKLEARN_ACTIVATIONS = {"relu": "relu", "logistic": "sigmoid", "tanh": "tanh"}
_TORCH_ACTIVATIONS = {
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "GELU(approximate='none')": "gelu_exact",
    "GELU(approximate='tanh')": "gelu",
}
_IGNORED = ("Flatten", "Dropout", "Identity")
_TORCH_LAYERS = (
    *("Sequential", "Linear", "BatchNorm1d", "ReLU", "Sigmoid", "Tanh", "GELU"),
    *_IGNORED,
)
# As PyTorch names them: its gelu is exact by default, that of JAX is not.
_TORCH_NAMES = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "gelu": "gelu_exact",
    "gelu_tanh": "gelu",
}
# Ends of the names of what weight_norm, spectral_norm and pruning store.
_COMPUTED = ("_g", "_v", "_u", "_orig", "_mask")


class _Dense(NamedTuple):
    """An affine map [inputs, outputs] and what follows it."""

    kernel: np.ndarray
    bias: np.ndarray
    norm: dict[str, np.ndarray] | None = None  # scale, bias, mean, var


def from_sklearn(classifier: Any) -> tuple[MLP, dict[str, Any]]:
    """The network of a fitted scikit-learn ``MLPClassifier``.

    Args:
        classifier: of two or more classes, one for each example. Class c of the network
            is ``classifier.classes_[c]``. Of two classes, scikit-learn computes one
            logit z; the network's logits are then (0, z), of the same probabilities.

    Returns:
        The network and its variables, float32.

    Raises:
        ValueError: not a fitted ``MLPClassifier``, one that predicts several labels an
            example or one class alone, or of an activation that ``MLP`` has not.

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
    # The classes of several labels are their numbers: of two labels, 0 and 1.
    num_labels = len(layers[-1].bias)
    if classifier.out_activation_ == "logistic" and num_labels > 1:
        raise ValueError(
            "classifier: expected one label for each example, y [N], got one fitted to "
            f"{num_labels} labels, y [N, {num_labels}]; fit one to each label, or to "
            "y.argmax(axis=1) if just one label of each example is 1"
        )
    if len(classifier.classes_) < 2:
        raise ValueError(
            "classifier: expected two or more classes, got one fitted to examples of "
            f"class {classifier.classes_[0]} alone; fit it to examples of all classes"
        )
    return _network(layers, _SKLEARN_ACTIVATIONS[classifier.activation])


def from_torch(
    module: Any,
    *,
    activation: str | None = None,
    norm_before_activation: bool | None = None,
) -> tuple[MLP, dict[str, Any]]:
    """The network of a PyTorch ``nn.Sequential``, or of a ``state_dict``.

    Args:
        module: ``Linear`` layers, after each but the last optionally ``BatchNorm1d``,
            then ``ReLU``, ``Sigmoid``, ``Tanh`` or ``GELU``, the same after all;
            ``Flatten``, ``Dropout`` and ``Identity`` may stand anywhere. Or the
            ``state_dict`` of such a network, with batch norm of PyTorch's default
            ``eps``. Of one logit z, that of a binary classifier, the network's logits
            are (0, z), of the same probabilities.
        activation: ``relu``, ``sigmoid``, ``tanh``, ``gelu`` or ``gelu_tanh``; for a
            ``state_dict``, which does not contain it, and for nothing else. The names
            are PyTorch's: ``gelu`` is the exact form (``gelu_exact`` of ``MLP``),
            ``gelu_tanh`` that of ``GELU("tanh")`` (``gelu`` of ``MLP``).
        norm_before_activation: True states that batch norm precedes the activation; for
            a ``state_dict`` whose keys do not show it. The keys ``0`` and ``1`` of an
            ``nn.Sequential`` show it, ``0`` and ``2`` or ``fc`` and ``bn`` do not.

    Returns:
        The network at inference and its variables, float32.

    Raises:
        ValueError: anything else; layers with forward hooks, computed weights
            (``weight_norm``, pruning) or no weights yet (lazy layers).

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
        if activation not in _TORCH_NAMES:
            raise ValueError(
                f"activation: expected one of {', '.join(_TORCH_NAMES)}, which a "
                f"state_dict does not contain, got {activation!r}"
            )
        if norm_before_activation not in (None, True):
            raise ValueError(
                "norm_before_activation: expected True, or None where no batch norm is "
                f"or the keys show it, got {norm_before_activation!r}{_INSTEAD}"
            )
        layers = _layers_of_state(module, norm_first=bool(norm_before_activation))
        return _network(layers, _TORCH_NAMES[activation])
    stated = {
        "activation": activation,
        "norm_before_activation": norm_before_activation,
    }
    for name, given in stated.items():
        if given is not None:
            raise ValueError(
                f"{name}: expected None, as the module has its own, got {given!r}"
            )
    if _kind(module) != "Sequential":
        raise ValueError(
            f"module: expected an nn.Sequential or a state_dict, got {_kind(module)}"
            f"{_INSTEAD}"
        )
    state = module.state_dict()
    _check_weights(state)
    activation = _activation_of(_flat_names(module))  # checks the layers first
    return _network(_layers_of_state(state, norm_first=True), activation)


def _kind(module: Any) -> str:
    """The name of a type; its whole path if it bears the name of a layer of PyTorch.

    Such a type may compute something else: quantised layers, layers of the user.
    """
    kind = type(module)
    of_torch = kind.__module__.startswith("torch.nn.modules.")
    if of_torch or kind.__name__ not in _TORCH_LAYERS:
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"


def _flat_names(module: Any, prefix: str = "") -> list[str]:
    """The types of all layers in a Sequential, nested ones too, in order."""
    _check_hooks(module, prefix.rstrip("."))
    names = []
    for path, child in module._modules.items():  # named_children leaves out repetitions
        path, name = f"{prefix}{path}", _kind(child)
        if name == "Sequential":
            names += _flat_names(child, f"{path}.")
            continue
        _check_hooks(child, path)
        epsilon = getattr(child, "eps", BATCH_NORM_EPSILON)
        if name == "BatchNorm1d" and (
            epsilon != BATCH_NORM_EPSILON or child.running_mean is None
        ):
            raise ValueError(
                f"module: expected BatchNorm1d with running statistics and eps "
                f"{BATCH_NORM_EPSILON}, got {child}{_INSTEAD}"
            )
        if name == "GELU":
            name = str(child)  # with its approximation
        if name not in _IGNORED:
            names.append(name)
    return names


def _check_hooks(module: Any, path: str) -> None:
    """Refuses a layer whose numbers a hook may replace."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            "module: expected layers without forward hooks, got one on "
            f"{path or 'the module'} ({_kind(module)}), which may change what it "
            "computes; remove it (handle.remove())"
        )


def _activation_of(names: Sequence[str]) -> str:
    """The activation of an MLP's layers; refuses the layers of other networks."""
    found = sorted({_TORCH_ACTIVATIONS[n] for n in names if n in _TORCH_ACTIVATIONS})
    hidden = ["Linear", "BatchNorm1d"] if "BatchNorm1d" in names else ["Linear"]
    block = [*hidden, *(n for n in names if n in _TORCH_ACTIVATIONS)][: len(hidden) + 1]
    number = names.count("Linear") - 1
    if len(found) != 1 or list(names) != [*(block * number), "Linear"]:
        raise ValueError(
            "module: expected Linear, BatchNorm1d if any, and the same activation "
            f"(ReLU, Sigmoid, Tanh or GELU), repeated, then Linear, got "
            f"{', '.join(names)}{_INSTEAD}"
        )
    return found[0]


def _check_weights(state: Mapping[str, Any]) -> None:
    """Refuses weights that are computed from others, or that have no numbers yet."""
    for name, value in state.items():
        parts = name.split(".")
        if "parametrizations" in parts or parts[-1].endswith(_COMPUTED):
            raise ValueError(
                f"module: expected weights that are stored, got {name}, from which one "
                "is computed (weight_norm, spectral_norm, pruning); store it first: "
                "torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove"
            )
        kind = type(value).__name__
        if kind.startswith("Uninitialized") or getattr(value, "is_meta", False):
            raise ValueError(
                f"module: expected weights with numbers, got {name} without any (of a "
                "lazy layer that has not run, or on the device meta); run the module "
                "once on examples, or load its weights"
            )


def _layers_of_state(state: Mapping[str, Any], *, norm_first: bool) -> list[_Dense]:
    """The affine maps of a state_dict, in order, with the batch norm after each.

    With ``norm_first``, batch norm is known to precede the activation.
    """
    _check_weights(state)
    by_module: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        path, _, field = name.rpartition(".")
        if hasattr(value, "detach"):  # a tensor, on a GPU and of 16 bits, it may be
            value = value.detach().cpu().float()
        by_module.setdefault(path, {})[field] = np.asarray(value)
    layers: list[_Dense] = []
    below = ""
    for path, fields in by_module.items():
        weight = fields.get("weight", np.zeros(0))
        if weight.ndim == 2 and fields.keys() <= {"weight", "bias"}:
            if layers and _gap(below, path) == 1:
                raise ValueError(
                    f"module: expected an activation before each Linear but the first, "
                    f"got none between {below} and {path}{_INSTEAD}"
                )
            bias = fields.get("bias", np.zeros(len(weight)))
            layers.append(_Dense(weight.T, bias))
        elif weight.ndim == 1 and {"running_mean", "running_var"} <= fields.keys():
            mean = fields["running_mean"]
            _check_norm(layers, below, path, len(mean))
            if not norm_first and _gap(below, path) != 1:
                raise ValueError(
                    "module: expected keys that show batch norm right after Linear, "
                    f"got {path} after {below}, which do not show whether the "
                    "activation is between them; pass the nn.Sequential itself, or "
                    "norm_before_activation=True if it is not"
                )
            norm = {
                "scale": fields.get("weight", np.ones(len(mean))),
                "bias": fields.get("bias", np.zeros(len(mean))),
                "mean": mean,
                "var": fields["running_var"],
            }
            layers[-1] = layers[-1]._replace(norm=norm)
        else:
            shapes = ", ".join(f"{f} {list(a.shape)}" for f, a in fields.items())
            raise ValueError(
                "module: expected weights of Linear layers, and of BatchNorm1d layers "
                f"with running statistics, alone, got {path or 'the module'} with "
                f"{shapes}{_INSTEAD}"
            )
        below = path
    return layers


def _check_norm(layers: list[_Dense], below: str, path: str, width: int) -> None:
    """Refuses batch norm that does not follow a Linear layer."""
    if not layers or layers[-1].norm is not None or len(layers[-1].bias) != width:
        raise ValueError(
            "module: expected each BatchNorm1d to follow a Linear layer with as many "
            f"outputs, got {path} of {width} after {below or 'no layer'}{_INSTEAD}"
        )


def _gap(below: str, path: str) -> int | None:
    """How many places of an nn.Sequential apart two layers are; None if not shown."""
    one, other = below.split("."), path.split(".")
    if one[:-1] != other[:-1] or not all(part.isdecimal() for part in (*one, *other)):
        return None
    return int(other[-1]) - int(one[-1])


def _network(layers: Sequence[_Dense], activation: str) -> tuple[MLP, dict[str, Any]]:
    """The MLP of some affine maps, the last to the logits, and its variables.

    One logit z, of a binary classifier, becomes the logits (0, z).
    """
    if layers and len(layers[-1].bias) == 1:
        kernel, bias, _ = layers[-1]
        last = _Dense(np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0)))
        layers = [*layers[:-1], last]
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

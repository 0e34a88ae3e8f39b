"""The same work as a researcher would otherwise write it, and an oracle in float64.

PyTorch and scikit-learn are imported when asked for; ``has_torch`` and ``has_sklearn``
tell whether they are there. PyTorch runs on a GPU where there is one, with its own
defaults for threads and precision (float32 matrix products), under ``inference_mode``.
"""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ioca_jax.networks.mlp import Affine

_OUTPUTS = {
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}
NEAR_TIE = 1e-4  # examples whose two best logits are closer may be counted either way
TORCH_CURVES = ("torch_loop", "torch_hoisted", "torch_vmap")
_VMAP_BYTES = 1e9


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def has_sklearn() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


class CurveInputs(NamedTuple):
    """Networks and masks to evaluate, all NumPy arrays.

    Attributes:
        networks: for each seed, its L+1 affine maps.
        activation: relu, sigmoid or tanh.
        masks: bool [S, O, P, H]; False ablates.
        clamps: float32 [S, H].
        x: float32 [N, D].
        y: int32 [N].
    """

    networks: Sequence[Sequence[Affine]]
    activation: str
    masks: np.ndarray
    clamps: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def layers_of(self, of_neurons: Any) -> list[Any]:
        """Cuts [..., H] into the hidden layers' parts."""
        ends = np.cumsum([len(affine.bias) for affine in self.networks[0][:-1]])
        starts = [0, *ends[:-1]]
        return [
            of_neurons[..., a:b] for a, b in zip(starts, ends.tolist(), strict=True)
        ]


class CurveOracle(NamedTuple):
    """What masks must give.

    Attributes:
        correct: [S, O, P, C].
        loss: [S, O, P], nats.
        near_ties: [S, O, P], examples whose two best logits are within ``NEAR_TIE``.
    """

    correct: np.ndarray
    loss: np.ndarray
    near_ties: np.ndarray


def curve_oracle(inputs: CurveInputs) -> CurveOracle:
    """Evaluates masks in float64, one at a time.

    Args:
        inputs: what to evaluate.

    Returns:
        The figures.
    """
    output = _OUTPUTS[inputs.activation]
    x, y = np.asarray(inputs.x, np.float64), inputs.y
    figures = []
    for network, masks, clamp in zip(
        inputs.networks, inputs.masks, inputs.clamps, strict=True
    ):
        maps = [[np.asarray(a, np.float64) for a in affine] for affine in network]
        first = output(x @ maps[0][0] + maps[0][1])
        clamps = inputs.layers_of(clamp)
        for mask in masks.reshape(-1, masks.shape[-1]):
            z, keeps = first, inputs.layers_of(mask)
            for layer, (kernel, bias) in enumerate(maps[1:]):
                h = z if layer == 0 else output(z)
                z = np.where(keeps[layer], h, clamps[layer]) @ kernel + bias
            best = np.sort(z, axis=1)
            shifted = z - best[:, -1:]
            losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
            right = y[z.argmax(axis=1) == y]
            figures.append(
                (
                    np.bincount(right, minlength=z.shape[1]),
                    losses.mean(),
                    np.sum(best[:, -1] - best[:, -2] < NEAR_TIE),
                )
            )
    correct, loss, near_ties = (
        np.asarray(column) for column in zip(*figures, strict=True)
    )
    shape = inputs.masks.shape[:-1]
    return CurveOracle(
        correct.reshape(*shape, -1), loss.reshape(shape), near_ties.reshape(shape)
    )


def torch_curve(
    kind: str, inputs: CurveInputs
) -> tuple[Callable[[], Any], Callable[[Any], tuple[np.ndarray, np.ndarray]]]:
    """Prepares PyTorch's evaluation of masks: the tensors are on the device already.

    Args:
        kind: ``torch_loop``, a full forward pass with hooks for each mask;
            ``torch_hoisted``, the layers below a mask's lowest ablated neuron once;
            ``torch_vmap``, ``torch.func.vmap`` over masks.
        inputs: what to evaluate.

    Returns:
        The set-up to do once, and the run: it takes the set-up's result and returns
        correct [S, O, P, C] and loss [S, O, P].
    """
    import torch  # pyright: ignore[reportMissingImports]  # an extra

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def put(array):
        return torch.as_tensor(np.array(array), device=device)

    activate = getattr(torch, inputs.activation)
    x, y = put(inputs.x), put(inputs.y).long()
    num_classes = len(inputs.networks[0][-1].bias)
    of_class = torch.nn.functional.one_hot(y, num_classes).float()
    networks = [
        [(put(kernel.T).contiguous(), put(bias)) for kernel, bias in network]
        for network in inputs.networks
    ]
    clamps = [inputs.layers_of(put(clamp)) for clamp in inputs.clamps]
    flat_masks = inputs.masks.reshape(len(networks), -1, inputs.masks.shape[-1])
    masks = [put(of_seed) for of_seed in flat_masks]
    linear = torch.nn.functional.linear

    def score(logits):
        right = (logits.argmax(dim=1) == y).float()
        return right @ of_class, torch.nn.functional.cross_entropy(logits, y)

    def above(seed, layer, raw, keeps):
        """From the outputs of a hidden layer to the score."""
        for index in range(layer, len(networks[seed]) - 1):
            if index > layer:
                raw = activate(raw)
            raw = torch.where(keeps[index], raw, clamps[seed][index])
            raw = linear(raw, *networks[seed][index + 1])
        return score(raw)

    def intact(seed):
        """The outputs of every hidden layer."""
        outputs = [x]
        for weight, bias in networks[seed][:-1]:
            outputs.append(activate(linear(outputs[-1], weight, bias)))
        return outputs[1:]

    def hooked_network(seed):
        """A module whose hooks clamp by the mask in a shared cell."""
        modules, current = [], {}
        for index, (weight, bias) in enumerate(networks[seed]):
            layer = torch.nn.Linear(*weight.shape[::-1], device="meta")
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.bias = torch.nn.Parameter(bias, requires_grad=False)
            modules.append(layer)
            if index < len(networks[seed]) - 1:
                modules.append(_module(torch, inputs.activation))
                modules[-1].register_forward_hook(
                    lambda module, args, output, index=index: torch.where(
                        current["keeps"][index], output, clamps[seed][index]
                    )
                )
        return torch.nn.Sequential(*modules), current

    def loop(seed, state):
        network, current = state
        for mask in masks[seed]:
            current["keeps"] = inputs.layers_of(mask)
            yield score(network(x))

    ends = np.cumsum([len(affine.bias) for affine in inputs.networks[0][:-1]])
    first_ablated = np.where(flat_masks.all(-1), ends[-1], flat_masks.argmin(-1))
    # An intact network starts at its last hidden layer.
    lowest = np.searchsorted(ends[:-1], first_ablated, side="right")

    def hoisted(seed, outputs):
        for mask, layer in zip(masks[seed], lowest[seed].tolist(), strict=True):
            yield above(seed, layer, outputs[layer], inputs.layers_of(mask))

    def vmapped(seed, outputs):
        layer = int(lowest[seed].min())
        widest = max(len(affine.bias) for affine in inputs.networks[0])
        chunk = max(1, int(_VMAP_BYTES / (4 * 3 * widest * len(y))))
        correct, loss = torch.func.vmap(
            lambda mask: above(seed, layer, outputs[layer], inputs.layers_of(mask)),
            chunk_size=chunk,
        )(masks[seed])
        yield from zip(correct, loss, strict=True)

    prepare, evaluate = {
        "torch_loop": (hooked_network, loop),
        "torch_hoisted": (intact, hoisted),
        "torch_vmap": (intact, vmapped),
    }[kind]

    def synchronise():
        if device == "cuda":
            torch.cuda.synchronize()

    def setup():
        with torch.inference_mode():
            states = [prepare(seed) for seed in range(len(networks))]
            synchronise()
        return tuple(states)

    def run(states):
        with torch.inference_mode():
            scores = [
                s for seed, state in enumerate(states) for s in evaluate(seed, state)
            ]
            correct = torch.stack([score[0] for score in scores]).cpu().numpy()
            loss = torch.stack([score[1] for score in scores]).cpu().numpy()
        shape = inputs.masks.shape[:-1]
        return correct.astype(np.int64).reshape(*shape, -1), loss.reshape(shape)

    return setup, run


def torch_train(
    networks: Sequence[Sequence[Affine]],
    activation: str,
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    epochs: int,
    learning_rate: float,
    l2: float,
) -> Callable[[Any], list[list[Affine]]]:
    """Prepares PyTorch's training, one network after another, images on the device.

    Args:
        networks: the initial weights of each.
        activation: relu, sigmoid or tanh.
        x: float32 [N, D].
        y: int32 [N].
        batch_size: examples a step.
        epochs: passes over the examples; those that fill no batch sit out.
        learning_rate: of Adam.
        l2: as in ``ioca_jax.TrainConfig``, on kernels alone.

    Returns:
        The run, which takes nothing of note and returns trained networks.
    """
    import torch  # pyright: ignore[reportMissingImports]  # an extra

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.as_tensor(np.array(x), device=device)
    labels = torch.as_tensor(np.array(y), device=device).long()

    def train(seed: int, network: Sequence[Affine]) -> list[Affine]:
        linears = []
        for kernel, bias in network:
            linear = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.as_tensor(np.array(kernel.T)))
                linear.bias.copy_(torch.as_tensor(np.array(bias)))
            linears.append(linear.to(device))
        modules = [linears[0]]
        for linear in linears[1:]:
            modules += [_module(torch, activation), linear]
        model = torch.nn.Sequential(*modules)
        optimizer = torch.optim.Adam(
            [
                # Adam adds weight_decay times the weight to its gradient.
                {"params": [m.weight for m in linears], "weight_decay": 2 * l2},
                {"params": [m.bias for m in linears]},
            ],
            lr=learning_rate,
        )
        loss_of = torch.nn.CrossEntropyLoss()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            shuffled = torch.randperm(len(labels), generator=generator).to(device)
            for start in range(0, len(labels) - batch_size + 1, batch_size):
                batch = shuffled[start : start + batch_size]
                optimizer.zero_grad()
                loss_of(model(images[batch]), labels[batch]).backward()
                optimizer.step()
        return [
            Affine(*(p.detach().cpu().numpy() for p in (m.weight.T, m.bias)))  # pyright: ignore[reportArgumentType]
            for m in linears
        ]

    return lambda _: [train(seed, network) for seed, network in enumerate(networks)]


def _module(torch: Any, activation: str) -> Any:
    names = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh"}
    return getattr(torch.nn, names[activation])()


def sklearn_measures(codes: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """All measures, neuron by neuron, by scikit-learn and SciPy.

    Args:
        codes: int32 [N, H].
        y: int32 [N].

    Returns:
        By measure, float64 [H], bits.
    """
    from scipy.stats import entropy
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    rows = []
    for code in codes.T:
        counts: Any = contingency_matrix(code, y)
        of_code = counts.sum(axis=1)
        divergences = entropy(counts, of_code[:, None], base=2)
        information = mutual_info_score(None, None, contingency=counts) / np.log(2)
        rows.append((entropy(of_code, base=2), information, np.max(divergences)))
    names = ("entropy", "mutual_information", "kl_selectivity")
    return dict(zip(names, np.asarray(rows).T, strict=True))


def sklearn_information(codes: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mutual information with the class, code by code, by scikit-learn.

    Args:
        codes: int32 [N, M].
        y: int32 [N].

    Returns:
        float64 [M], bits.
    """
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    values = []
    for code in codes.T:
        counts: Any = contingency_matrix(code, y)
        values.append(mutual_info_score(None, None, contingency=counts))
    return np.asarray(values) / np.log(2)


def sklearn_pairs(
    codes: np.ndarray,
    y: np.ndarray,
    pairs: np.ndarray,
    num_codes: int,
    alone: np.ndarray | None = None,
) -> np.ndarray:
    """Co-information of pairs with the class, pair by pair, by scikit-learn.

    Args:
        codes: int32 [N, H].
        y: int32 [N].
        pairs: integers [P, 2], neurons.
        num_codes: B.
        alone: float64 [H], each neuron's mutual information with the class; without,
            those of both neurons are computed for every pair.

    Returns:
        float64 [P], bits.
    """
    first, second = pairs.T
    joint = sklearn_information(codes[:, first] * num_codes + codes[:, second], y)
    of_first, of_second = (
        sklearn_information(codes[:, members], y) if alone is None else alone[members]
        for members in (first, second)
    )
    return of_first + of_second - joint


def count_oracle(
    codes: np.ndarray, y: np.ndarray, num_codes: int, num_classes: int
) -> np.ndarray:
    """Joint counts, code column by code column.

    Args:
        codes: integers [N, M] in [0, B).
        y: integers [N].
        num_codes: B.
        num_classes: C.

    Returns:
        int64 [M, B, C].
    """
    size = num_codes * num_classes
    tables = [np.bincount(code * num_classes + y, minlength=size) for code in codes.T]
    return np.asarray(tables).reshape(-1, num_codes, num_classes)


def bits_oracle(counts: np.ndarray) -> dict[str, np.ndarray]:
    """All measures of joint counts, in float64, as their formulas stand.

    Args:
        counts: int64 [M, B, C].

    Returns:
        By measure, float64 [M], bits.
    """
    joint = counts / counts.sum(axis=(1, 2), keepdims=True)
    of_code = joint.sum(axis=2)
    of_class = joint.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        plogp = np.where(of_code > 0, of_code * np.log2(of_code), 0)
        given = joint / of_class[:, None, :]
        terms = np.where(joint > 0, given * np.log2(given / of_code[:, :, None]), 0)
    divergences = terms.sum(axis=1)
    return {
        "entropy": -plogp.sum(axis=1),
        "mutual_information": (of_class * divergences).sum(axis=1),
        "kl_selectivity": divergences.max(axis=1),
    }


def pair_bits_oracle(counts: np.ndarray, num_codes: int) -> dict[str, np.ndarray]:
    """Values of pairs from joint counts, in float64, as their formulas stand.

    Args:
        counts: int64 [P, B*B, C].
        num_codes: B.

    Returns:
        By name, float64 [P], bits: what follows from mutual informations, uncorrected.
    """
    both = counts.reshape(len(counts), num_codes, num_codes, -1)
    first, second, joint = (
        bits_oracle(table)["mutual_information"]
        for table in (both.sum(axis=2), both.sum(axis=1), counts)
    )
    redundancy, co_information = np.minimum(first, second), first + second - joint
    return {
        "joint_information": joint,
        "co_information": co_information,
        "redundancy_mmi": redundancy,
        "unique_mmi": first - redundancy,
        "synergy_mmi": redundancy - co_information,
    }

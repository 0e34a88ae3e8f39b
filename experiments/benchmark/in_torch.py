"""The same work in PyTorch, which is imported when it takes part.

It runs on a GPU where there is one, with its own defaults for threads and precision
(float32 matrix products), under ``inference_mode``.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from ioca_jax.networks.mlp import Affine

from .peers import CurveInputs

TORCH_CURVES = ("torch_loop", "torch_hoisted", "torch_vmap")
# The least that one would write: multiplications by masks, and correct examples alone.
LEAN_CURVES = ("torch_lean", "torch_lean_hoisted", "torch_rank_one")
_VMAP_BYTES = 1e9


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


class Scorer:
    """Labels on PyTorch's device, and the scores of logits."""

    def __init__(self, y: np.ndarray, num_classes: int):  # noqa: D107
        import torch  # pyright: ignore[reportMissingImports]  # an extra

        self.torch: Any = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.y = self.put(y).long()
        self.of_class = torch.nn.functional.one_hot(self.y, num_classes).float()

    def put(self, array: Any) -> Any:
        """An array as a tensor on the device."""
        return self.torch.as_tensor(np.array(array), device=self.device)

    def score(self, logits: Any) -> tuple[Any, Any]:
        """Correct by class [C], and the mean cross-entropy."""
        right = (logits.argmax(dim=1) == self.y).float()
        loss = self.torch.nn.functional.cross_entropy(logits, self.y)
        return right @ self.of_class, loss

    def collect(self, scores: Iterator[tuple[Any, Any]], shape: tuple[int, ...]):
        """Correct [*shape, C] and loss [*shape] in NumPy."""
        with self.torch.inference_mode():
            correct, loss = zip(*scores, strict=True)
            correct, loss = (self.torch.stack(c).cpu().numpy() for c in (correct, loss))
        return correct.astype(np.int64).reshape(*shape, -1), loss.reshape(shape)


class _Curves(Scorer):
    """Masks of MLPs, with all tensors on the device."""

    def __init__(self, inputs: CurveInputs):
        super().__init__(inputs.y, len(inputs.networks[0][-1].bias))
        self.inputs = inputs
        self.x = self.put(inputs.x)
        self.activate = getattr(self.torch, inputs.activation)
        self.networks = [
            [
                (self.put(kernel.T).contiguous(), self.put(bias))
                for kernel, bias in network
            ]
            for network in inputs.networks
        ]
        self.clamps = [inputs.layers_of(self.put(clamp)) for clamp in inputs.clamps]
        self.flat_masks = inputs.masks.reshape(
            len(self.networks), -1, inputs.masks.shape[-1]
        )
        self.masks = [self.put(of_seed) for of_seed in self.flat_masks]

    @cached_property
    def lowest(self) -> np.ndarray:
        """The lowest layer that each mask ablates; the last hidden one for none."""
        widths = [len(affine.bias) for affine in self.inputs.networks[0][:-1]]
        ends = np.cumsum(widths)
        masks = self.flat_masks
        first_ablated = np.where(masks.all(-1), ends[-1], masks.argmin(-1))
        return np.searchsorted(ends[:-1], first_ablated, side="right")

    def above(self, seed: int, layer: int, raw: Any, keeps: Sequence[Any]) -> Any:
        """From the outputs of a hidden layer to the score."""
        maps, linear = self.networks[seed], self.torch.nn.functional.linear
        for index in range(layer, len(maps) - 1):
            if index > layer:
                raw = self.activate(raw)
            raw = self.torch.where(keeps[index], raw, self.clamps[seed][index])
            raw = linear(raw, *maps[index + 1])
        return self.score(raw)

    def intact(self, seed: int) -> list[Any]:
        """The outputs of every hidden layer."""
        outputs = [self.x]
        for weight, bias in self.networks[seed][:-1]:
            linear = self.torch.nn.functional.linear(outputs[-1], weight, bias)
            outputs.append(self.activate(linear))
        return outputs[1:]

    def hooked(self, seed: int) -> tuple[Any, dict[str, Any]]:
        """A module whose hooks clamp by the mask in a shared dictionary."""
        nn = self.torch.nn
        modules, current = [], {}
        for index, (weight, bias) in enumerate(self.networks[seed]):
            layer = nn.Linear(*weight.shape[::-1], device="meta")
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.bias = nn.Parameter(bias, requires_grad=False)
            modules.append(layer)
            if index < len(self.networks[seed]) - 1:
                modules.append(_module(self.torch, self.inputs.activation))
                add_hook(
                    self.torch, modules[-1], current, index, self.clamps[seed][index]
                )
        return nn.Sequential(*modules), current

    def loop(self, seed: int, state: Any) -> Iterator[Any]:
        """A full forward pass with hooks for each mask."""
        network, current = state
        for mask in self.masks[seed]:
            current["keeps"] = self.inputs.layers_of(mask)
            yield self.score(network(self.x))

    def hoisted(self, seed: int, outputs: Any) -> Iterator[Any]:
        """The layers below a mask's lowest ablated neuron once."""
        lowest = self.lowest[seed].tolist()
        for mask, layer in zip(self.masks[seed], lowest, strict=True):
            yield self.above(seed, layer, outputs[layer], self.inputs.layers_of(mask))

    def vmapped(self, seed: int, outputs: Any) -> Iterator[Any]:
        """``torch.func.vmap`` over masks."""
        layer = int(self.lowest[seed].min())
        widest = max(len(affine.bias) for affine in self.inputs.networks[0])
        chunk = max(1, int(_VMAP_BYTES / (4 * 3 * widest * len(self.y))))

        def of_mask(mask):
            return self.above(seed, layer, outputs[layer], self.inputs.layers_of(mask))

        scores = self.torch.func.vmap(of_mask, chunk_size=chunk)(self.masks[seed])
        yield from zip(*scores, strict=True)

    def lean(self, seed: int, outputs: Any, hoisted: bool) -> Iterator[Any]:
        """A forward pass for each mask, ``hoisted`` without the layers below all."""
        linear, maps = self.torch.nn.functional.linear, self.networks[seed]
        lowest = int(self.lowest[seed].min())
        for mask in self.masks[seed].float():
            keeps = self.inputs.layers_of(mask)
            clamped = self.inputs.layers_of(
                self.put(self.inputs.clamps[seed]) * (1 - mask)
            )
            first = lowest if hoisted else 0
            h = outputs[lowest] if hoisted else self.activate(linear(self.x, *maps[0]))
            for index in range(first, len(maps) - 2):
                h = linear(h * keeps[index] + clamped[index], *maps[index + 1])
                h = self.activate(h)
            logits = linear(h * keeps[-1] + clamped[-1], *maps[-1])
            yield (logits.argmax(dim=1) == self.y).sum()

    def rank_one(self, seed: int, outputs: Any) -> Iterator[Any]:
        """Cumulative masks: an update of rank one, then the layers above it."""
        linear, maps, clamps = (
            self.torch.nn.functional.linear,
            self.networks[seed],
            self.clamps[seed],
        )
        h = [layer.clone() for layer in outputs]
        z = [linear(layer, *maps[index + 1]) for index, layer in enumerate(h)]
        ends = np.cumsum([len(clamp) for clamp in clamps])
        before = np.ones_like(self.flat_masks[seed][0])
        for mask, keeps in zip(self.flat_masks[seed], self.masks[seed], strict=True):
            kept = self.inputs.layers_of(keeps)
            for neuron in np.flatnonzero(before & ~mask):
                layer = int(np.searchsorted(ends, neuron, side="right"))
                row = int(neuron - ends[layer] + len(clamps[layer]))
                change = clamps[layer][row] - h[layer][:, row]
                h[layer][:, row] = clamps[layer][row]
                z[layer].addr_(change, maps[layer + 1][0][:, row])
                for above in range(layer + 1, len(h)):
                    raw = self.activate(z[above - 1])
                    h[above] = self.torch.where(kept[above], raw, clamps[above])
                    z[above] = linear(h[above], *maps[above + 1])
            before = mask
            yield (z[-1].argmax(dim=1) == self.y).sum()


def add_hook(torch: Any, module: Any, current: dict, index: int, clamp: Any) -> None:
    """Makes a module's output ``clamp`` where ``current["keeps"][index]`` is False."""

    def ablate(module, args, output):
        del module, args
        return torch.where(current["keeps"][index], output, clamp)

    module.register_forward_hook(ablate)


def torch_curve(
    kind: str, inputs: CurveInputs
) -> tuple[Callable[[], Any], Callable[[Any], tuple[np.ndarray, np.ndarray | None]]]:
    """Prepares PyTorch's evaluation, one of ``TORCH_CURVES`` or ``LEAN_CURVES``.

    Returns the set-up to do once, and the run: it takes the set-up's result and returns
    correct [S, O, P, C] and loss [S, O, P]; the lean correct [S, O, P], and None. The
    tensors are on the device already.
    """
    work = _Curves(inputs)
    prepare, evaluate = {
        "torch_loop": (work.hooked, work.loop),
        "torch_hoisted": (work.intact, work.hoisted),
        "torch_vmap": (work.intact, work.vmapped),
        "torch_lean": (lambda seed: None, partial(work.lean, hoisted=False)),
        "torch_lean_hoisted": (work.intact, partial(work.lean, hoisted=True)),
        "torch_rank_one": (work.intact, work.rank_one),
    }[kind]

    def setup():
        with work.torch.inference_mode():
            states = [prepare(seed) for seed in range(len(work.networks))]
            if work.device == "cuda":
                work.torch.cuda.synchronize()
        return tuple(states)

    def run(states):
        scores = (s for seed, state in enumerate(states) for s in evaluate(seed, state))
        if kind in LEAN_CURVES:
            with work.torch.inference_mode():
                right = work.torch.stack(list(scores)).cpu().numpy()
            return right.reshape(inputs.masks.shape[:-1]), None
        return work.collect(scores, inputs.masks.shape[:-1])

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
            linear = torch.nn.Linear(len(kernel), len(bias))
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

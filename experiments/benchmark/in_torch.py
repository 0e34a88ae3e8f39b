"""The same work in PyTorch, which is imported when it takes part.

It runs on a GPU where there is one, with its own defaults for threads and precision
(float32 matrix products), under ``inference_mode``.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import ioca_jax as ioca

from .oracles import Affine, CurveInputs

# Forward hooks and a full pass for each mask; and the layers that no mask ablates once.
TORCH_CURVES = ("torch_loop", "torch_hoisted")


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

    def collect(
        self, scores: Iterator[tuple[Any, Any]], shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
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
        self.linear = self.torch.nn.functional.linear
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

    def intact(self, seed: int) -> list[Any]:
        """The outputs of every hidden layer."""
        outputs = [self.x]
        for weight, bias in self.networks[seed][:-1]:
            outputs.append(self.activate(self.linear(outputs[-1], weight, bias)))
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
        """From the outputs of the lowest ablated layer on, for each mask."""
        maps, of_layers = self.networks[seed], self.inputs.layers_of
        ablated = of_layers(~self.flat_masks[seed].all(axis=0))
        lowest = next(index for index, some in enumerate(ablated) if some.any())
        for mask in self.masks[seed]:
            keeps, raw = of_layers(mask), outputs[lowest]
            for index in range(lowest, len(maps) - 1):
                raw = self.activate(raw) if index > lowest else raw
                raw = self.torch.where(keeps[index], raw, self.clamps[seed][index])
                raw = self.linear(raw, *maps[index + 1])
            yield self.score(raw)


def add_hook(torch: Any, module: Any, current: dict, index: int, clamp: Any) -> None:
    """Makes a module's output ``clamp`` where ``current["keeps"][index]`` is False."""

    def ablate(module, args, output):
        del module, args
        return torch.where(current["keeps"][index], output, clamp)

    module.register_forward_hook(ablate)


def torch_curve(
    kind: str, inputs: CurveInputs
) -> tuple[Callable[[], Any], Callable[[Any], tuple[np.ndarray, np.ndarray]]]:
    """Prepares PyTorch's evaluation, one of ``TORCH_CURVES``.

    Returns the set-up to do once, and the run: it takes the set-up's result and returns
    correct [S, O, P, C] and loss [S, O, P]. The tensors are on the device already.
    """
    work = _Curves(inputs)
    prepare, evaluate = {
        "torch_loop": (work.hooked, work.loop),
        "torch_hoisted": (work.intact, work.hoisted),
    }[kind]

    def setup():
        with work.torch.inference_mode():
            states = [prepare(seed) for seed in range(len(work.networks))]
            if work.device == "cuda":
                work.torch.cuda.synchronize()
        return tuple(states)

    def run(states):
        scores = (s for seed, state in enumerate(states) for s in evaluate(seed, state))
        return work.collect(scores, inputs.masks.shape[:-1])

    return setup, run


def torch_train(
    networks: Sequence[Sequence[Affine]],
    activation: str,
    x: np.ndarray,
    y: np.ndarray,
    config: ioca.TrainConfig,
) -> list[list[Affine]]:
    """Trains networks with Adam from given weights, one after another.

    The L2 penalty is on kernels alone; examples that fill no batch sit out.
    """
    import torch  # pyright: ignore[reportMissingImports]  # an extra

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.as_tensor(np.array(x), device=device)
    labels = torch.as_tensor(np.array(y), device=device).long()
    size = config.batch_size

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
                {
                    "params": [m.weight for m in linears],
                    "weight_decay": 2 * config.l2,
                },
                {"params": [m.bias for m in linears]},
            ],
            lr=config.learning_rate,
        )
        loss_of = torch.nn.CrossEntropyLoss()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(config.epochs):
            shuffled = torch.randperm(len(labels), generator=generator).to(device)
            for start in range(0, len(labels) - size + 1, size):
                batch = shuffled[start : start + size]
                optimizer.zero_grad()
                loss_of(model(images[batch]), labels[batch]).backward()
                optimizer.step()
        return [
            Affine(
                m.weight.detach().cpu().numpy().T,
                m.bias.detach().cpu().numpy(),
            )
            for m in linears
        ]

    return [train(seed, network) for seed, network in enumerate(networks)]


def _module(torch: Any, activation: str) -> Any:
    names = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh"}
    return getattr(torch.nn, names[activation])()

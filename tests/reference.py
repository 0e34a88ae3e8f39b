"""An independent network: NumPy, float64, one mask at a time, written for clearness."""

import math

import numpy as np

ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}


def forward(model, variables, x, keep=None, clamp=None):
    """Logits [N, C] and outputs [N, H] of a network, neuron by neuron if ablated."""
    outputs, first = [], 0
    inputs = np.asarray(x, np.float64).reshape(len(x), -1)
    for layer, width in enumerate(model.hidden):
        dense = variables["params"][f"dense_{layer}"]
        z = inputs @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
        if model.batch_norm:
            norm = variables["params"][f"norm_{layer}"]
            running = variables["batch_stats"][f"norm_{layer}"]
            z = (z - np.float64(running["mean"])) / np.sqrt(
                np.float64(running["var"]) + 1e-5
            )
            z = z * np.float64(norm["scale"]) + np.float64(norm["bias"])
        inputs = ACTIVATIONS[model.activation](z)
        for neuron in range(width):
            if keep is not None and clamp is not None and not keep[first + neuron]:
                inputs[:, neuron] = clamp[first + neuron]
        outputs.append(inputs)
        first += width
    dense = variables["params"][f"dense_{len(model.hidden)}"]
    logits = inputs @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
    return logits, np.concatenate(outputs, axis=1)


def evaluate(model, variables, keep, clamp, x, y):
    """Correct by class [C], the mean cross-entropy, and how many are near a tie."""
    logits, _ = forward(model, variables, x, keep, clamp)
    ordered = np.sort(logits, axis=1)
    near_tie = ordered[:, -1] - ordered[:, -2] < 1e-4
    right = logits.argmax(axis=1) == y
    correct = np.bincount(np.asarray(y)[right], minlength=model.num_classes)
    shifted = logits - ordered[:, -1:]
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    return correct, losses.mean(), near_tie.sum()


def entropy_of(*columns: np.ndarray, corrected: bool = False) -> float:
    """Joint entropy of columns, bits, float64, by counting distinct rows."""
    _, counts = np.unique(np.stack(columns, axis=1), axis=0, return_counts=True)
    law = counts / counts.sum()
    bits = -np.sum(law * np.log2(law))
    return bits + corrected * (len(counts) - 1) / (2 * counts.sum() * math.log(2))


def information_of(codes: np.ndarray, labels: np.ndarray, **options: bool) -> float:
    """I(T;Y) of the columns of codes together."""
    columns = tuple(codes.T)
    of_codes = entropy_of(*columns, **options) if columns else 0.0
    of_labels = entropy_of(labels, **options)
    return of_codes + of_labels - entropy_of(*columns, labels, **options)

"""Networks of scikit-learn and PyTorch compute what they compute there."""

import re
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

import ioca_jax as ioca

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
INSTEAD = re.escape(
    "; write the network as a JAX function of (variables, x) and use trace_network"
)


def fitted(classes, **options) -> MLPClassifier:
    labels = np.resize(np.asarray(classes), len(X))
    options = {"hidden_layer_sizes": (7, 4), "max_iter": 5, "random_state": 0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MLPClassifier(**options).fit(X, labels)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("activation", ["relu", "logistic", "tanh"])
@pytest.mark.parametrize("classes", [("a", "b"), (3, 1, 2)])
def test_a_classifier_of_scikit_learn(activation, classes):
    classifier = fitted(classes, activation=activation)
    network, variables = ioca.from_sklearn(classifier)
    logits, activations = network.apply(variables, X)
    expected = np.asarray(classifier.predict_proba(X))
    np.testing.assert_allclose(softmax(np.array(logits)), expected, rtol=1e-5)
    predicted = classifier.classes_[np.array(logits).argmax(axis=1)]
    assert predicted.tolist() == np.asarray(classifier.predict(X)).tolist()
    assert network.hidden == (7, 4)
    first = X @ classifier.coefs_[0] + classifier.intercepts_[0]
    functions = {
        "relu": lambda z: np.maximum(z, 0),
        "logistic": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
    }
    hidden = functions[activation](first)
    np.testing.assert_allclose(activations[:, :7], hidden, rtol=1e-4, atol=1e-6)


def test_other_models_of_scikit_learn_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        several = MLPClassifier((3,), max_iter=2).fit(X, RNG.integers(0, 2, (40, 3)))
        regressor = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2).fit(X, X[:, 0])
    for given, message in [
        (MLPClassifier(), "expected a fitted MLPClassifier of .*, got MLPClassifier$"),
        (regressor, "expected a fitted MLPClassifier of .*, got MLPRegressor$"),
        (several, f"expected one label for each example, got 3 labels{INSTEAD}$"),
        (
            fitted((0, 1), activation="identity"),
            f"expected the activation relu, logistic, tanh, got identity{INSTEAD}$",
        ),
    ]:
        with pytest.raises(ValueError, match=f"^classifier: {message}"):
            ioca.from_sklearn(given)


def state_of(*widths: int, norm: bool = False) -> dict[str, np.ndarray]:
    """A state_dict as PyTorch lays it out: weights [outputs, inputs]."""
    state = {}
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        state[f"{index}.linear.weight"] = RNG.normal(size=(outputs, inputs))
        state[f"{index}.linear.bias"] = RNG.normal(size=outputs)
        if norm and index < len(widths) - 2:
            state[f"{index}.norm.weight"] = RNG.normal(size=outputs)
            state[f"{index}.norm.bias"] = RNG.normal(size=outputs)
            state[f"{index}.norm.running_mean"] = RNG.normal(size=outputs)
            state[f"{index}.norm.running_var"] = RNG.uniform(1, 2, size=outputs)
            state[f"{index}.norm.num_batches_tracked"] = np.array(3)
    return state


@pytest.mark.parametrize("norm", [False, True])
def test_a_state_dict(norm):
    state = state_of(5, 7, 4, 3, norm=norm)
    network, variables = ioca.from_torch(state, activation="tanh")
    assert network == ioca.MLP((7, 4), 3, "tanh", batch_norm=norm)
    outputs = X.astype(np.float64)
    for index in range(3):
        linear = f"{index}.linear."
        outputs = outputs @ state[f"{linear}weight"].T + state[f"{linear}bias"]
        if index < 2:
            if norm:
                of = {
                    name.rpartition(".")[2]: values
                    for name, values in state.items()
                    if name.startswith(f"{index}.norm.")
                }
                scaled = (outputs - of["running_mean"]) / np.sqrt(
                    of["running_var"] + 1e-5
                )
                outputs = scaled * of["weight"] + of["bias"]
            outputs = np.tanh(outputs)
    logits, _ = network.apply(variables, X)
    np.testing.assert_allclose(logits, outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "activation", "message"),
    [
        (state_of(5, 3), "relu", f"two or more layers, .* outputs \\[3\\]{INSTEAD}"),
        (
            {"conv.weight": np.zeros((2, 1, 3, 3)), "conv.bias": np.zeros(2)},
            "relu",
            "^module: expected weights of Linear and BatchNorm1d layers alone, got conv"
            f" with weight \\[2, 1, 3, 3\\], bias \\[2\\]{INSTEAD}",
        ),
        (
            state_of(5, 4, 3) | {"2.linear.weight": np.zeros((2, 9))},
            "relu",
            f"each with as many inputs as .*\\[5, 4, 9\\] and .*{INSTEAD}",
        ),
        (
            {
                name: values
                for name, values in state_of(5, 4, 4, 3, norm=True).items()
                if not name.startswith("1.norm")
            },
            "relu",
            f"after every hidden layer or after none, got it after 1 of 3 .*{INSTEAD}",
        ),
        (
            state_of(5, 4, 3),
            None,
            "^activation: expected one of relu, sigmoid, tanh, gelu, which a "
            "state_dict does not contain, got None$",
        ),
        (X, None, f"^module: .* nn.Sequential or a state_dict, got ndarray{INSTEAD}$"),
    ],
)
def test_what_is_no_mlp_is_refused(given, activation, message):
    with pytest.raises(ValueError, match=message):
        ioca.from_torch(given, activation=activation)


def test_modules_of_pytorch():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Sigmoid())
    module = nn.Sequential(
        nn.Flatten(),
        inner,
        nn.Dropout(0.5),
        *(nn.Linear(7, 4, bias=False), nn.BatchNorm1d(4), nn.Sigmoid()),
        nn.Linear(4, 3),
    )
    module(torch.tensor(X))  # moves the running statistics
    module.eval()
    with torch.no_grad():
        expected = module(torch.tensor(X)).numpy()
    by_state = ioca.from_torch(module.state_dict(), activation="sigmoid")
    for network, variables in (ioca.from_torch(module), by_state):
        assert network == ioca.MLP((7, 4), 3, "sigmoid", batch_norm=True)
        np.testing.assert_allclose(network.apply(variables, X)[0], expected, atol=1e-5)
    flat = f"expected Linear, BatchNorm1d if any, .*{INSTEAD}"
    for layers, message in [
        ([nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)], flat),
        ([nn.Linear(5, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)], flat),
        ([nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(1)], flat),
        ([nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(4, 3)], flat),
        (
            [nn.Linear(5, 4), nn.BatchNorm1d(4, eps=1e-3), nn.ReLU(), nn.Linear(4, 3)],
            "expected BatchNorm1d with running statistics and eps",
        ),
    ]:
        with pytest.raises(ValueError, match=f"^module: {message}"):
            ioca.from_torch(nn.Sequential(*layers))
    with pytest.raises(ValueError, match=f"state_dict, got LSTM{INSTEAD}"):
        ioca.from_torch(nn.LSTM(2, 2))
    with pytest.raises(ValueError, match="expected None, as the module has its own"):
        ioca.from_torch(module, activation="relu")

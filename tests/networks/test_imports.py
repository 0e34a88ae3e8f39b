"""Networks of scikit-learn and PyTorch compute what they compute there."""

import importlib
import inspect
import re
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import special
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
@pytest.mark.parametrize("classes", [("a", "b"), (3, 1, 2), (0.0, 1.0)])
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


def test_a_class_that_no_example_has_yet():
    labels = np.arange(len(X)) % 2
    classifier = MLPClassifier((3,), random_state=0)
    classifier.partial_fit(X, labels, classes=[0, 1, 2])
    network, variables = ioca.from_sklearn(classifier)
    assert network.num_classes == 3
    logits, _ = network.apply(variables, X)
    expected = np.asarray(classifier.predict_proba(X))
    np.testing.assert_allclose(softmax(np.array(logits)), expected, rtol=1e-5)


@pytest.mark.parametrize("number", [2, 3])
def test_several_labels_are_refused(number):
    """Of two labels, the classes that scikit-learn names are 0 and 1, as of two."""
    labels = np.arange(len(X) * number).reshape(-1, number) // 3 % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier = MLPClassifier((3,), max_iter=2).fit(X, labels)
    with pytest.raises(ValueError, match="^classifier: ") as error:
        ioca.from_sklearn(classifier)
    assert str(error.value) == (
        "classifier: expected one label for each example, y [N], got one fitted to "
        f"{number} labels, y [N, {number}]; fit one to each label, or to "
        "y.argmax(axis=1) if just one label of each example is 1"
    )


@pytest.mark.parametrize("label", ["a", 7])
def test_one_class_alone_is_refused(label):
    with pytest.raises(ValueError, match="^classifier: ") as error:
        ioca.from_sklearn(fitted((label,)))
    assert str(error.value) == (
        "classifier: expected two or more classes, got one fitted to examples of class "
        f"{label} alone; fit it to examples of all classes"
    )


def test_other_models_of_scikit_learn_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2).fit(X, X[:, 0])
    for given, message in [
        (MLPClassifier(), "expected a fitted MLPClassifier of .*, got MLPClassifier$"),
        (regressor, "expected a fitted MLPClassifier of .*, got MLPRegressor$"),
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
    stated = {"norm_before_activation": True} if norm else {}  # names do not show it
    network, variables = ioca.from_torch(state, activation="tanh", **stated)
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


KERNEL, BIAS = RNG.normal(size=(7, 5)), RNG.normal(size=7)
LAST, LAST_BIAS = RNG.normal(size=(3, 7)), RNG.normal(size=3)
MEAN, VAR = RNG.normal(size=7), RNG.uniform(1, 2, size=7)
SCALE, OFFSET = RNG.normal(size=7), RNG.normal(size=7)
LINEAR = {"0.weight": KERNEL, "0.bias": BIAS}
RUNNING = {"1.running_mean": MEAN, "1.running_var": VAR}
LOGITS = {"3.weight": LAST, "3.bias": LAST_BIAS}


@pytest.mark.parametrize(
    ("affine", "scale", "offset"),
    [
        ({}, 1, 0),  # BatchNorm1d(affine=False)
        ({"1.weight": SCALE}, SCALE, 0),  # BatchNorm1d(bias=False)
        ({"1.weight": SCALE, "1.bias": OFFSET}, SCALE, OFFSET),
    ],
)
def test_batch_norm_without_some_weights(affine, scale, offset):
    state = LINEAR | affine | RUNNING | LOGITS
    state["1.num_batches_tracked"] = np.array(3)
    network, variables = ioca.from_torch(state, activation="relu")
    normed = (X @ KERNEL.T + BIAS - MEAN) / np.sqrt(VAR + 1e-5) * scale + offset
    expected = np.maximum(normed, 0) @ LAST.T + LAST_BIAS
    logits, _ = network.apply(variables, X)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_linear_layers_without_bias():
    state = {"0.weight": KERNEL, "2.weight": LAST}
    network, variables = ioca.from_torch(state, activation="relu")
    expected = np.maximum(X @ KERNEL.T, 0) @ LAST.T
    logits, _ = network.apply(variables, X)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def exact_gelu(z: np.ndarray) -> np.ndarray:
    return z * (1 + special.erf(z / np.sqrt(2))) / 2


def tanh_gelu(z: np.ndarray) -> np.ndarray:
    return z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2


GELUS = {
    "gelu": (exact_gelu, "gelu_exact", "none"),
    "gelu_tanh": (tanh_gelu, "gelu", "tanh"),
}


@pytest.mark.parametrize("name", GELUS)
def test_both_forms_of_gelu(name):
    state = LINEAR | {"2.weight": LAST, "2.bias": LAST_BIAS}
    function, of_mlp, _ = GELUS[name]
    network, variables = ioca.from_torch(state, activation=name)
    assert network.activation == of_mlp
    logits, activations = network.apply(variables, X)
    hidden = function(X @ KERNEL.T + BIAS)
    # The forms differ by up to 5e-4.
    np.testing.assert_allclose(activations, hidden, atol=2e-5)
    np.testing.assert_allclose(logits, hidden @ LAST.T + LAST_BIAS, atol=1e-4)


def test_one_logit_becomes_two():
    state = LINEAR | {"2.weight": LAST[:1], "2.bias": LAST_BIAS[:1]}
    network, variables = ioca.from_torch(state, activation="relu")
    assert network.num_classes == 2
    logit = np.maximum(X @ KERNEL.T + BIAS, 0) @ LAST[0] + LAST_BIAS[0]
    logits, _ = network.apply(variables, X)
    np.testing.assert_allclose(
        softmax(np.array(logits))[:, 1], special.expit(logit), rtol=1e-4
    )


def renamed(state: Mapping[str, np.ndarray], **paths: str) -> dict[str, np.ndarray]:
    """A state_dict whose layers have other paths, ``_0`` for ``0``."""
    moved = {old[1:]: new for old, new in paths.items()}
    named = {}
    for name, values in state.items():
        path, _, field = name.rpartition(".")
        named[f"{moved.get(path, path)}.{field}"] = values
    return named


NORMED = LINEAR | RUNNING | LOGITS


@pytest.mark.parametrize(
    ("paths", "norm", "below"),
    [
        ({"_1": "2", "_3": "3"}, "2", "0"),  # Linear, ReLU, BatchNorm1d, Linear
        ({"_0": "fc", "_1": "bn"}, "bn", "fc"),
        ({"_0": "net.0", "_1": "net.1"}, "net.1", "net.0"),  # of a ModuleList?
        ({"_0": "0.0", "_1": "1.0"}, "1.0", "0.0"),
    ],
)
def test_keys_that_do_not_show_where_batch_norm_is(paths, norm, below):
    state = renamed(NORMED, **({"_3": "9"} | paths))
    with pytest.raises(ValueError, match="^module: ") as error:
        ioca.from_torch(state, activation="relu")
    assert str(error.value) == (
        f"module: expected keys that show batch norm right after Linear, got {norm} "
        f"after {below}, which do not show whether the activation is between them; "
        "pass the nn.Sequential itself, or norm_before_activation=True if it is not"
    )
    if below != "0":  # there the next Linear follows at once
        network, variables = ioca.from_torch(
            state, activation="relu", norm_before_activation=True
        )
        normed = (X @ KERNEL.T + BIAS - MEAN) / np.sqrt(VAR + 1e-5)
        expected = np.maximum(normed, 0) @ LAST.T + LAST_BIAS
        np.testing.assert_allclose(network.apply(variables, X)[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            renamed(LINEAR | LOGITS, _3="1"),
            "module: expected an activation before each Linear but the first, got none "
            "between 0 and 1",
        ),
        (
            renamed(NORMED, _3="2"),
            "module: expected an activation before each Linear but the first, got none "
            "between 1 and 2",
        ),
        (
            NORMED | {"1.running_mean": MEAN[:3]},
            "module: expected each BatchNorm1d to follow a Linear layer with as many "
            "outputs, got 1 of 3 after 0",
        ),
        (
            RUNNING | LOGITS,
            "module: expected each BatchNorm1d to follow a Linear layer with as many "
            "outputs, got 1 of 7 after no layer",
        ),
        (
            LINEAR | RUNNING | renamed(RUNNING, _1="2"),
            "module: expected each BatchNorm1d to follow a Linear layer with as many "
            "outputs, got 2 of 7 after 1",
        ),
        (
            LINEAR | {"1.weight": SCALE, "1.bias": OFFSET} | LOGITS,  # LayerNorm?
            "module: expected weights of Linear layers, and of BatchNorm1d layers with "
            "running statistics, alone, got 1 with weight [7], bias [7]",
        ),
    ],
)
def test_states_of_other_networks(state, message):
    with pytest.raises(ValueError, match="^module: ") as error:
        ioca.from_torch(state, activation="relu")
    assert str(error.value) == message + INSTEAD.replace("\\", "")


@pytest.mark.parametrize(
    "key",
    [
        *("0.weight_g", "0.weight_orig", "0.weight_mask"),
        "0.parametrizations.weight.original0",
    ],
)
def test_weights_that_are_computed_are_refused(key):
    with pytest.raises(ValueError, match="^module: ") as error:
        ioca.from_torch({key: KERNEL} | LOGITS, activation="relu")
    assert str(error.value) == (
        f"module: expected weights that are stored, got {key}, from which one is "
        "computed (weight_norm, spectral_norm, pruning); store it first: "
        "torch.nn.utils.parametrize.remove_parametrizations, "
        "torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove"
    )


def test_a_norm_after_the_activation_is_none_of_an_mlp():
    with pytest.raises(ValueError, match="^norm_before_activation: ") as error:
        ioca.from_torch(NORMED, activation="relu", norm_before_activation=False)
    assert str(error.value) == (
        "norm_before_activation: expected True, or None where no batch norm is or the "
        "keys show it, got False" + INSTEAD.replace("\\", "")
    )


@pytest.mark.parametrize(
    ("given", "activation", "message"),
    [
        (state_of(5, 3), "relu", f"two or more layers, .* outputs \\[3\\]{INSTEAD}"),
        (
            {"conv.weight": np.zeros((2, 1, 3, 3)), "conv.bias": np.zeros(2)},
            "relu",
            "^module: expected weights of Linear layers, .* alone, got conv"
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
            "^activation: expected one of relu, sigmoid, tanh, gelu, gelu_tanh, which "
            "a state_dict does not contain, got None$",
        ),
        (X, None, f"^module: .* nn.Sequential or a state_dict, got ndarray{INSTEAD}$"),
    ],
)
def test_what_is_no_mlp_is_refused(given, activation, message):
    norm = True if activation else None
    with pytest.raises(ValueError, match=message):
        ioca.from_torch(given, activation=activation, norm_before_activation=norm)


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

    def block(inputs, activation):
        return nn.Linear(inputs, 4), activation

    for layers, message in [
        ([nn.Linear(5, 4), nn.ELU(), nn.Linear(4, 3)], flat),
        ([*block(5, nn.GELU()), *block(4, nn.GELU("tanh")), nn.Linear(4, 3)], flat),
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


def compare_with(module, torch) -> ioca.MLP:
    """The network of a module, which computes what the module does."""
    module.eval()
    with torch.no_grad():
        expected = module(torch.tensor(X)).numpy()
    network, variables = ioca.from_torch(module)
    logits, _ = network.apply(variables, X)
    np.testing.assert_allclose(logits[:, -expected.shape[1] :], expected, atol=1e-5)
    return network


def test_layers_of_pytorch_and_their_options():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    for name, (_, of_mlp, approximate) in GELUS.items():
        gelu = nn.GELU(approximate)
        module = nn.Sequential(nn.Linear(5, 4), gelu, nn.Linear(4, 3))
        assert compare_with(module, torch).activation == of_mlp
        by_state = ioca.from_torch(module.state_dict(), activation=name)
        assert by_state[0] == ioca.from_torch(module)[0]
    norms = [nn.BatchNorm1d(4, affine=False)]
    if "bias" in inspect.signature(nn.BatchNorm1d).parameters:  # of recent versions
        norms.append(nn.BatchNorm1d(4, bias=False))
    relu = nn.ReLU()  # one layer, used twice
    for norm in norms:
        bare = nn.Linear(5, 4, bias=False)
        second = nn.Linear(4, 4), nn.BatchNorm1d(4), relu
        module = nn.Sequential(bare, norm, relu, *second, nn.Linear(4, 3, bias=False))
        module(torch.tensor(X))  # moves the running statistics
        compare_with(module, torch)
    one = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    assert compare_with(one, torch).num_classes == 2


def test_modules_that_compute_more_than_their_layers_are_refused():
    torch = pytest.importorskip("torch")
    nn, parametrizations = torch.nn, torch.nn.utils.parametrizations
    prune = importlib.import_module("torch.nn.utils.prune")

    def module(first=None):
        return nn.Sequential(first or nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))

    hooked, before, whole = module(), module(), module()
    hooked[1].register_forward_hook(lambda layer, inputs, outputs: outputs * 2)
    before[0].register_forward_pre_hook(lambda layer, inputs: None)
    whole.register_forward_hook(lambda layer, inputs, outputs: outputs * 2)
    for given, where in [
        (hooked, r"1 \(ReLU\)"),
        (before, r"0 \(Linear\)"),
        (whole, r"the module \(Sequential\)"),
    ]:
        expected = (
            f"^module: expected layers without forward hooks, got one on {where}, "
            r"which may change what it computes; remove it \(handle.remove\(\)\)$"
        )
        with pytest.raises(ValueError, match=expected):
            ioca.from_torch(given)
    for layer in (
        parametrizations.weight_norm(nn.Linear(5, 4)),
        parametrizations.spectral_norm(nn.Linear(5, 4)),
        prune.l1_unstructured(nn.Linear(5, 4), "weight", 0.5),
    ):
        with pytest.raises(ValueError, match="^module: expected weights that are stor"):
            ioca.from_torch(module(layer))
    for layer in (nn.LazyLinear(4), nn.Linear(5, 4, device="meta")):
        for given in (module(layer), module(layer).state_dict()):
            activation = "relu" if isinstance(given, dict) else None
            with pytest.raises(ValueError, match="^module: ") as error:
                ioca.from_torch(given, activation=activation)
            assert str(error.value) == (
                "module: expected weights with numbers, got 0.weight without any (of a "
                "lazy layer that has not run, or on the device meta); run the module "
                "once on examples, or load its weights"
            )
    lazy = module(nn.LazyLinear(4))
    lazy(torch.tensor(X))  # has weights from now on
    compare_with(lazy, torch)

    class Linear(nn.Linear):  # bears the name of another
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(
        ValueError, match=r"^module: expected Linear, .*<locals>.Linear"
    ):
        ioca.from_torch(module(Linear(5, 4)))

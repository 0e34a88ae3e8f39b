"""The variables of ``study.nc``: their dimensions, units and meanings."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr


class Variable(NamedTuple):
    """One variable of the schema."""

    dims: tuple[str, ...]
    long_name: str
    units: str


_CURVE = ("seed", "clamp", "scope", "ordering", "step")
_HISTORY = ("seed", "epoch")
_SCORE = ("seed", "measure", "neuron")
_PAIR = ("neuron", "other")
_ALONG = ("seed", "side", "scope", "ordering", "step")
_GROUP = ("seed", "scope", "group_size", "group")
_OF_LAYER = ("seed", "trajectory_epoch", "hidden_layer")
_BY_MEASURE = "as the coordinate unit says"

# By dimensions and unit, the variables and their meanings.
_MEANINGS = {
    (_SCORE, _BY_MEASURE): {
        "score": "measure of a neuron on the validation split; game-theoretic measures "
        "are of the game among the neurons of its layer",
    },
    (_SCORE, "1"): {
        "p_value": "share of permutations of the labels that give the neuron as great "
        "a value, (b+1)/(m+1); NaN for measures that do not depend on labels",
        "p_value_family": "share of permutations of the labels that give any neuron of "
        "the network as great a value, (b+1)/(m+1)",
    },
    (("seed", "variant", "measure", "neuron"), "bit"): {
        "variant_score": "measure of information by another quantiser or on a part of "
        "the validation split",
    },
    (("seed", "neuron"), "class"): {
        "selective_class": "class that attains the KL selectivity, -1 where that is 0",
    },
    (("seed", "neuron"), "1"): {
        "activation_mean": "mean output over the validation split, the mean clamp",
    },
    (("seed", "neuron", "code", "class"), "count"): {
        "joint_count": "validation examples by code of the neuron and true class",
    },
    (("seed", "scope", "ordering", "position"), "neuron index"): {
        "order": "neuron ablated at each position, -1 past the scope's end",
    },
    ((*_CURVE, "class"), "count"): {
        "correct": "test examples classified correctly, by true class, -1 past the "
        "scope's end",
    },
    ((*_CURVE, "annotation_value"), "count"): {
        "correct_by_value": "test examples classified correctly, by value of an "
        "annotation, -1 past the scope's end",
    },
    (_CURVE, "nat"): {"loss": "mean cross-entropy on the test split"},
    (_CURVE, "1"): {"accuracy": "share of the test split classified correctly"},
    ((*_CURVE, "metric"), "as the coordinate metric_unit says"): {
        "metric_mean": "further metric on the test split, mean over examples",
    },
    (("seed", "clamp", "neuron", "class"), "count"): {
        "single_correct": "test examples classified correctly with this neuron alone "
        "ablated, by true class",
    },
    (("seed", "clamp", "neuron"), "nat"): {
        "single_loss": "mean cross-entropy on the test split with this neuron alone "
        "ablated",
        "direct_loss": "the same while later layers output what they output in the "
        "intact network",
    },
    (("seed", "pair_measure", *_PAIR), "bit"): {
        "pair_value": "information of two neurons about the class on the validation "
        "split; positive co-information is redundancy, negative is synergy; the unique "
        "information of a neuron is its mutual information less the redundancy",
    },
    (("seed", *_PAIR), "bit"): {
        "pair_null": "chance level of the plug-in co-information: its mean over "
        "permutations of the labels",
    },
    (("seed", "clamp", *_PAIR), "1"): {
        "pair_effect_accuracy": "accuracy on the test split lost by ablating both "
        "neurons, less the sum of the single losses; positive is redundancy, negative "
        "is synergy; NaN across layers",
    },
    (("seed", "clamp", *_PAIR), "nat"): {
        "pair_effect_loss": "the same in mean cross-entropy",
    },
    (_ALONG, "bit"): {
        "joint_information": "joint information with the class of the neurons ablated "
        "so far and of the remaining ones, on the validation split, plug-in; NaN where "
        "examples are too few",
        "joint_information_miller_madow": "the same, corrected by Miller and Madow",
        "joint_information_null": "the same, plug-in, mean over permutations of the "
        "labels",
    },
    (_ALONG, "count"): {
        "joint_cells": "pairs of joint code and class that occur, of which each needs "
        "five examples; past the first point with too few examples, that point's "
        "number, a lower bound; -1 past the scope's end",
    },
    (_GROUP, "1"): {
        "redundancy_index": "sum of the neurons' information with the class over their "
        "joint information: above 1 redundancy dominates, below 1 synergy",
        "vulnerability": "share of a group's information with the class that is lost "
        "without a neuron, summed over its neurons: 0 for copies, 1 where information "
        "adds up, more for synergy",
    },
    (_GROUP, "bit"): {
        "o_information_with_class": "O-information of a group's neurons and the class, "
        "Miller-Madow; positive is redundancy; NaN except for the first groups of "
        "three and more",
    },
    (("seed", "trajectory_epoch", "measure", "neuron"), "bit"): {
        "trajectory_score": "measure of information of a neuron after so many epochs, "
        "on the validation split",
    },
    (("seed", "trajectory_epoch"), "1"): {
        "trajectory_accuracy": "test accuracy after so many epochs",
    },
    (_OF_LAYER, "bit"): {
        "layer_entropy": "entropy of a layer's joint code on the validation split, "
        "plug-in: at most the logarithm of the number of its examples",
        "layer_information": "information of a layer's joint code about the class, "
        "Miller-Madow; NaN where examples are too few",
        "layer_information_decoded": "information about the class that a naive Bayes "
        "decoder, fitted to the other half of the validation split, recovers from a "
        "layer's codes: a lower bound of the layer's information",
    },
    ((*_OF_LAYER, "group"), "1"): {
        "layer_redundancy_index": "redundancy index of groups drawn at random in a "
        "layer",
    },
    (("seed",), "1"): {"diverged": "whether the training loss became infinite or NaN"},
    (_HISTORY, "nat"): {
        "train_loss": "mean training loss of the epoch's batches, with penalty",
        "validation_loss": "mean cross-entropy on the validation split at the epoch's "
        "end",
    },
    (_HISTORY, "1"): {
        "train_accuracy": "mean training accuracy of the epoch's batches",
        "validation_accuracy": "accuracy on the validation split at the epoch's end",
    },
}
VARIABLES = {
    name: Variable(dims, meaning, units)
    for (dims, units), meanings in _MEANINGS.items()
    for name, meaning in meanings.items()
}


# Of earlier versions: stored, and shown nowhere.
_GONE = (
    "pair_p_value",
    *("network_score", "broja", "chosen_pair", "joint_p_value", "group_member"),
    *("o_information", "o_information_p_value", "o_information_with_class_p_value"),
    "layer_cells",
)
_GONE_AXES = ("chosen", "member_of_pair", "part", "member")


def without_gone(results: xr.Dataset) -> xr.Dataset:
    """Results of an earlier version with the variables and axes of this one."""
    results = results.drop_vars(_GONE, errors="ignore")
    return results.drop_dims(_GONE_AXES, errors="ignore")


def make_results(
    arrays: Mapping[str, np.ndarray],
    coordinates: Mapping[str, Any],
    attributes: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Labels arrays, by the names of ``VARIABLES``, and their coordinates."""
    variables = {}
    for name, array in arrays.items():
        dims, long_name, units = VARIABLES[name]
        described = {"long_name": long_name, "units": units}
        variables[name] = dims, np.asarray(array), described
    results = xr.Dataset(variables, coordinates, attributes)
    if "unit" in results.coords and len(units := np.unique(results["unit"])) == 1:
        for name in results.data_vars:
            if VARIABLES[str(name)].units == _BY_MEASURE:
                results[name].attrs["units"] = str(units[0])
    return results

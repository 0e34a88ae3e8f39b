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
VARIABLES = {
    "score": Variable(
        _SCORE,
        "measure of a neuron on the validation split, where it is of a game among "
        "neurons of those of its layer",
        _BY_MEASURE,
    ),
    "network_score": Variable(
        _SCORE,
        "the same among all neurons, for measures that are of a game, else NaN",
        _BY_MEASURE,
    ),
    "variant_score": Variable(
        ("seed", "variant", "measure", "neuron"),
        "measure of information by another quantiser or part of the validation split",
        "bit",
    ),
    "p_value": Variable(
        _SCORE,
        "share of permutations of the labels that give a neuron as much, (b+1)/(m+1); "
        "NaN for measures that labels do not decide",
        "1",
    ),
    "p_value_family": Variable(
        _SCORE,
        "share of permutations of the labels that give any neuron of the network as "
        "much, (b+1)/(m+1)",
        "1",
    ),
    "selective_class": Variable(
        ("seed", "neuron"),
        "class that attains the KL selectivity, -1 where that is 0",
        "class",
    ),
    "activation_mean": Variable(
        ("seed", "neuron"),
        "mean output over the validation split, the mean clamp",
        "1",
    ),
    "joint_count": Variable(
        ("seed", "neuron", "code", "class"),
        "validation examples by code of the neuron and true class",
        "count",
    ),
    "order": Variable(
        ("seed", "scope", "ordering", "position"),
        "neuron ablated at each position, -1 past the scope's end",
        "neuron index",
    ),
    "correct": Variable(
        (*_CURVE, "class"),
        "test examples classified correctly, by true class, -1 past the scope's end",
        "count",
    ),
    "loss": Variable(_CURVE, "mean cross-entropy on the test split", "nat"),
    "accuracy": Variable(_CURVE, "share of the test split classified correctly", "1"),
    "single_correct": Variable(
        ("seed", "clamp", "neuron", "class"),
        "test examples classified correctly with this neuron alone ablated, by true "
        "class",
        "count",
    ),
    "single_loss": Variable(
        ("seed", "clamp", "neuron"),
        "mean cross-entropy on the test split with this neuron alone ablated",
        "nat",
    ),
    "pair_value": Variable(
        ("seed", "pair_measure", *_PAIR),
        "what two neurons say of the class, alone and together, on the validation "
        "split; positive co-information is redundancy, negative is synergy; what only "
        "one says is its mutual information less the redundancy",
        "bit",
    ),
    "pair_p_value": Variable(
        ("seed", *_PAIR),
        "share of permutations of the labels under which the co-information of any "
        "pair of the network is as far from 0, (b+1)/(m+1)",
        "1",
    ),
    "chosen_pair": Variable(
        ("seed", "chosen", "member_of_pair"),
        "pairs of a layer of the greatest and of the least co-information",
        "neuron index",
    ),
    "broja": Variable(
        ("seed", "chosen", "part"),
        "what a chosen pair says of the class, decomposed after Bertschinger et al.; "
        "NaN where a layer has no such pair, or no solution was found",
        "bit",
    ),
    "pair_effect_accuracy": Variable(
        ("seed", "clamp", *_PAIR),
        "accuracy on the test split that ablating both neurons costs beyond what each "
        "alone does; positive is redundancy, negative is synergy; NaN across layers",
        "1",
    ),
    "pair_effect_loss": Variable(
        ("seed", "clamp", *_PAIR),
        "the same in mean cross-entropy",
        "nat",
    ),
    "joint_information": Variable(
        _ALONG,
        "joint information with the class of the neurons ablated so far and of those "
        "left, on the validation split, plug-in; NaN where it has too few examples",
        "bit",
    ),
    "joint_information_miller_madow": Variable(
        _ALONG, "the same, corrected by Miller and Madow", "bit"
    ),
    "joint_information_null": Variable(
        _ALONG, "the same, plug-in, mean over permutations of the labels", "bit"
    ),
    "joint_p_value": Variable(
        _ALONG,
        "share of permutations of the labels that give as much, (b+1)/(m+1)",
        "1",
    ),
    "joint_cells": Variable(
        _ALONG,
        "pairs of joint code and class that occur, of which each takes five examples; "
        "past the first point that has too few examples that point's, at least as "
        "many; -1 past the scope's end",
        "count",
    ),
    "group_member": Variable(
        (*_GROUP, "member"),
        "neurons of groups drawn at random, -1 past the group's size",
        "neuron index",
    ),
    "redundancy_index": Variable(
        _GROUP,
        "sum of the neurons' information with the class over their joint one: above 1 "
        "redundancy dominates, below 1 synergy",
        "1",
    ),
    "o_information": Variable(
        _GROUP,
        "O-information of a group's neurons among themselves, Miller-Madow; positive "
        "is redundancy; NaN but for the first groups of three and more",
        "bit",
    ),
    "o_information_with_class": Variable(
        _GROUP, "the same of the neurons and the class", "bit"
    ),
    "o_information_p_value": Variable(
        _GROUP,
        "share of permutations of every neuron's codes on their own that give an "
        "O-information as far from 0, (b+1)/(m+1)",
        "1",
    ),
    "o_information_with_class_p_value": Variable(
        _GROUP,
        "share of permutations of the labels that give an O-information with the class "
        "as far from that without, (b+1)/(m+1)",
        "1",
    ),
    "trajectory_score": Variable(
        ("seed", "trajectory_epoch", "measure", "neuron"),
        "measure of information of a neuron after so many epochs, on the validation "
        "split",
        "bit",
    ),
    "trajectory_accuracy": Variable(
        ("seed", "trajectory_epoch"), "test accuracy after so many epochs", "1"
    ),
    "layer_entropy": Variable(
        _OF_LAYER,
        "entropy of a layer's joint code on the validation split, plug-in: at most the "
        "logarithm of the number of its examples",
        "bit",
    ),
    "layer_information": Variable(
        _OF_LAYER,
        "information of a layer's joint code with the class, Miller-Madow; NaN where "
        "it has too few examples",
        "bit",
    ),
    "layer_information_decoded": Variable(
        _OF_LAYER,
        "information with the class of what a naive Bayes decoder, fitted to the other "
        "half of the validation split, makes of a layer's codes: a lower bound of the "
        "layer's",
        "bit",
    ),
    "layer_cells": Variable(
        _OF_LAYER,
        "pairs of a layer's joint code and class that occur, of which each takes five "
        "examples",
        "count",
    ),
    "layer_redundancy_index": Variable(
        (*_OF_LAYER, "group"),
        "redundancy index of groups drawn at random in a layer",
        "1",
    ),
    "diverged": Variable(("seed",), "whether the training loss ceased finite", "1"),
    "train_loss": Variable(
        _HISTORY, "mean training loss of the epoch's batches, with penalty", "nat"
    ),
    "train_accuracy": Variable(
        _HISTORY, "mean training accuracy of the epoch's batches", "1"
    ),
    "validation_loss": Variable(
        _HISTORY, "mean cross-entropy on the validation split at the epoch's end", "nat"
    ),
    "validation_accuracy": Variable(
        _HISTORY, "accuracy on the validation split at the epoch's end", "1"
    ),
}


def make_results(
    arrays: Mapping[str, np.ndarray],
    coordinates: Mapping[str, Any],
    attributes: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Labels arrays, by the names of ``VARIABLES``, and their coordinates."""
    variables = {
        name: (
            VARIABLES[name].dims,
            np.asarray(array),
            {"long_name": VARIABLES[name].long_name, "units": VARIABLES[name].units},
        )
        for name, array in arrays.items()
    }
    results = xr.Dataset(variables, coordinates, attributes)
    if "unit" in results.coords and len(units := np.unique(results["unit"])) == 1:
        for name in results.data_vars:
            if VARIABLES[str(name)].units == _BY_MEASURE:
                results[name].attrs["units"] = str(units[0])
    return results

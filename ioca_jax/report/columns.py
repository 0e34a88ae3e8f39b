"""What each column of a run's tables means: one description for each.

A name in capitals stands for several columns: ``family_MEASURE`` for one of each
measure.
"""

import re
from collections.abc import Mapping

Columns = dict[str, str]

_PLACES = {
    "scope": "what is ablated: network (all layers together) or a layer, as layer_1",
    "layer": "the layer, counted from 1, or its name",
    "clamp": "what ablated neurons output: zero, mean and others",
    "measure": "the measure that neurons are ranked by",
    "ranked_by": "the measure that the order is of, or random",
    "direction": "ascending or descending order of the measure, or random",
}
_INTERVAL = {
    "low": "lower end of the 95 % interval of effect over networks, not corrected for "
    "the other rows",
    "high": "upper end of that interval",
}
_TESTS = {
    "p_value": "two-sided sign-flip test over networks, of this row alone; empty for "
    "fewer than six networks",
    "p_corrected": "p_value corrected for all rows of the table (Westfall-Young)",
    "p_bootstrap": "bootstrap test for skewed differences, corrected likewise",
}
_TESTED = _INTERVAL | _TESTS
_NETWORKS = "number of networks in which the correlation is defined"
_UNIT = "unit of effect: bit, nat, or 1 for a pure number"
_FINDING = (
    "redundant or synergistic by p_corrected and the sign of effect, else neither; "
    "empty without a test"
)


def _at(*names: str) -> Columns:
    return {name: _PLACES[name] for name in names}


NEURONS: Columns = _at("layer") | {
    "neurons": "number of neurons of the layer",
    "dead": "neurons whose code is the lowest for every example, mean over networks",
    "always_on": "neurons whose code is the highest for every example, mean over "
    "networks",
    "family_MEASURE": "neurons above the maximum over neurons in 95 % of the label "
    "permutations, mean over networks",
    "discovered_MEASURE": "neurons informative at a false discovery rate of 5 %, mean "
    "over networks",
    "by_permutation_MEASURE": "neurons whose p-value is a share of permutations and "
    "not of the G-test, mean over networks",
    "selective_for_CLASS": "neurons whose KL selectivity is attained at this class, "
    "mean over networks",
    "least_by_permutation": "fewest neurons of a network that permutations can "
    "discover: with fewer, none is",
}
VARIANTS: Columns = {
    "variant": "another quantiser, or another part of the examples",
    "measure": "the measure",
    **_at("layer"),
    "spearman": "Spearman's rho over the neurons of the layer, between the measure and "
    "its variant, mean over networks",
    "low": "lower end of the 95 % interval of spearman over networks",
    "high": "upper end of that interval",
    "networks": _NETWORKS,
}
ORDERS: Columns = _at("scope", "clamp", "ranked_by", "direction") | {
    "area": "normalised area under the accuracy curve, mean over networks: 1 where "
    "ablation costs nothing, 0 at chance",
    "lost_1": "number of ablated neurons at which the mean curve has lost 1 point of "
    "accuracy; empty if it never does",
    "lost_5": "the same for 5 points",
    "lost_10": "the same for 10 points",
    "effect": "area less that of random orders, mean over networks",
    **_TESTED,
}
DIFFERENCES: Columns = _at("scope", "clamp", "ranked_by", "direction") | {
    "step": "number of ablated neurons",
    "mean": "accuracy less that of random orders, mean over networks",
    "low": "lower end of the simultaneous 95 % band of the whole curve",
    "high": "upper end of that band",
}
FAITHFULNESS: Columns = _at("scope", "clamp") | {
    "metric": "accuracy, loss, or another metric of the curves",
    "quantity": "CPR or CMD of all points, or at the ten shares of MIB",
    "ranked_by": "the measure whose ascending order is read from its end, or random",
    "value": "CPR or CMD, mean over networks",
    "value_low": "lower end of its 95 % interval over networks",
    "value_high": "upper end of that interval",
    "effect": "value less that of random orders, mean over networks",
    **_TESTED,
}
REGRET: Columns = _at("scope", "clamp") | {
    "quantity": "CPR (in accuracy) or normalised area",
    "ranked_by": "the measure in ascending order, or random",
    "learned": "the quantity of the learned order, mean over networks",
    "effect": "learned less the quantity of this order, mean over networks",
    **_TESTED,
}
ANNOTATIONS: Columns = {
    "annotation": "name of the annotation",
    "value": "its value",
    **_at("scope", "ranked_by", "direction", "clamp"),
    "lost": "accuracy that examples of this value lose, mean over the curve and over "
    "networks",
    "lost_others": "accuracy that examples of the other values lose, likewise",
    "effect": "lost less lost_others, mean over networks",
    **_TESTED,
}
EFFECTS: Columns = _at("layer", "clamp", "measure") | {
    "spearman": "Spearman's rho in place of Kendall's tau, mean over networks",
    "networks": _NETWORKS,
    "effect": "Kendall's tau-b over the neurons of the layer, between the measure and "
    "the rise of the test loss when one neuron is ablated, mean over networks",
    **_TESTED,
}
CLASS_DAMAGE: Columns = _at("layer", "clamp") | {
    "quantity": "own class: the correlation with the damage to the class that the "
    "neuron is selective for; own class less others: what exceeds that of other "
    "classes",
    "effect": "rank correlation of selectivity for a class with the accuracy lost in "
    "it, mean over classes and networks",
    **_TESTED,
}
SELF_REPAIR: Columns = _at("layer", "clamp") | {
    "total": "rise of the test loss when one neuron is ablated, nats, mean over "
    "neurons and networks",
    "direct": "the same while later layers output what they do in the intact network",
    "effect": "direct less total: above 0 later layers repair",
    **_TESTED,
}
_HYPOTHESIS: Columns = _at("layer", "clamp", "measure") | {
    "end": "highest or lowest: which neurons of the measure it is about",
}
HYPOTHESES: Columns = _HYPOTHESIS | {
    "effect": "harm beyond that of random orders, in normalised area, mean over "
    "networks",
    **_TESTED,
    "p_value": "one-sided sign-flip test over networks, of this row alone",
    "verdict": "what the curves suggest: redundant, synergistic or undecided",
    "sentence": "the row as a sentence",
}
PAIRS: Columns = _at("layer", "clamp") | {
    "pair_measure": "the measure of a pair of neurons",
    "effect_in": "what the pair's ablation changes: loss or accuracy",
    "networks": _NETWORKS,
    "effect": "Spearman's rho over the pairs of the layer, between the measure and the "
    "effect of ablating the pair, mean over networks",
    **_TESTED,
}
JOINT: Columns = {
    "layer": "the layer, or the last less the first",
    "instrument": "the quantity: co-information, groups and others",
    "clamp": "what ablated neurons output; empty for information",
    "unit": _UNIT,
    "effect": "mean over networks: above 0 redundancy, below 0 synergy",
    **_TESTED,
    "finding": _FINDING,
}
VERDICTS: Columns = _HYPOTHESIS | {
    "suggested": "what the curves suggest: redundant, synergistic or undecided",
    "instrument": "the quantity that tests it",
    "unit": _UNIT,
    "neurons": "number of neurons that it is taken from",
    "effect": "mean over networks: above 0 redundancy, below 0 synergy",
    **_TESTED,
    "finding": _FINDING,
    "beside_others": "effect less that of the other neurons of the layer",
    "p_beside_others": "its test, corrected for all rows",
}
CONCLUSIONS: Columns = _HYPOTHESIS | {
    "suggested": "what the curves suggest: redundant, synergistic or undecided",
    "redundant": "number of instruments that show redundancy",
    "synergistic": "number of instruments that show synergy",
    "neither": "number of instruments that show neither",
    "verdict": "confirmed, contradicted, mixed or open; where curves suggest nothing, "
    "the direction that instruments agree on",
    "sentence": "the row as a sentence",
}
TRAJECTORIES: Columns = _at("layer") | {
    "trajectory_epoch": "epochs of training",
    "test_error": "share of test examples that are classified wrongly",
    "median_MEASURE": "median of the measure over the neurons of the layer, bits",
    "layer_entropy": "entropy of the layer's joint code, bits",
    "layer_information": "information of that code about the class, bits; empty where "
    "the examples are too few to estimate it",
    "layer_information_decoded": "the part of it that a naive Bayes decoder recovers, "
    "bits",
    "redundancy_index": "sum of the neurons' information over their joint information, "
    "median over groups",
}
TRENDS: Columns = {
    "layer": "the layer, or all for the test error",
    "quantity": "a column of the table trajectories",
    "unit": _UNIT,
    "from_epoch": "the earlier epoch",
    "to_epoch": "the last epoch",
    "effect": "the quantity at to_epoch less that at from_epoch, mean over networks",
    **_TESTED,
    "trend": "grows, shrinks or neither, by p_corrected; empty without a test",
}
CLAIMS: Columns = {
    "claim": "the claim, in files by its name in ioca_jax.inference.claims.CLAIMS",
    "scope": "what is ablated: network or a layer; two layers where one is compared "
    "with the one below it",
    **_at("clamp"),
    "measure": "the measure that neurons are ranked by, or random",
    "effect": "the difference that the claim is about, mean over networks",
    **_TESTED,
    "undefined": "networks in which Kendall's tau is not defined, as all neurons of "
    "the layer are alike; it counts as 0",
    "verdict": "holds, fails or undecided, by p_corrected and the sign of effect",
    "networks_for_power": "networks that would decide an undecided comparison with a "
    "probability of 80 %; inf above 200",
    "networks_for_half": "the same with a probability of 50 %",
    "skewness": "skewness of the differences over networks",
    "usual_skewness": "what the root mean square of skewness over all rows exceeds in "
    "5 % of symmetric samples",
}


def described(columns: Mapping[str, str], name: str) -> tuple[str, str]:
    """A column's name there and its description; both empty if it has none."""
    for known, text in columns.items():
        if re.fullmatch(re.sub("MEASURE|CLASS", ".+", known), name):
            return known, text
    return "", ""

"""Which neurons of a trained classifier matter, alone and together, and how sure?

Takes any network that is a JAX function, or trains fully-connected and convolutional
networks for many seeds at once; measures every neuron in bits, ablates neurons
cumulatively in the orders of these measures and at random, and tests over seeds.
Method: R. A. Amjad, K. Liu, B. C. Geiger, "Understanding Neural Networks and Individual
Neuron Importance via Information-Ordered Cumulative Ablation", arXiv 1804.06679.

Packages, each of which imports only those above it:

==============  ========================================================
``data``        examples and labels in three splits
``sources``     MNIST digits, TensorFlow Datasets, ``.npz`` files
``networks``    networks found by tracing, ``MLP``, ``CNN``, training
``measures``    quantisers, counts, information, scores, pairs, groups
``ablation``    orders, ablation curves, effects of neurons, pruning
``results``     the labelled results of a study and their files
``inference``   intervals, tests, claims and hypotheses over networks
``plots``       figures of results
``report``      results as text
``study``       configuration, computation, and a run's folder
==============  ========================================================

Axes, in every docstring and annotation:

=====  =================================================================
``S``  seeds; each is one network
``N``  examples
``D``  inputs of the network (pixels)
``L``  hidden layers
``H``  hidden neurons, all layers concatenated, first layer first
``B``  codes of a quantiser
``C``  classes
``K``  neurons ablated at the end of an order; a curve has ``K+1`` points
``M``  masks, or curves
``E``  epochs of training
=====  =================================================================

A score, a mask, a clamp value and an order are plain arrays over the flat neuron axis
``H``, whatever the layers; ``MLP.layer_of_neuron`` maps back.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ioca_jax.ablation.curves import ablation_curve, ablation_curves, evaluate_masks
from ioca_jax.ablation.evaluation import Evaluation
from ioca_jax.ablation.metrics import Metric
from ioca_jax.ablation.orderings import cumulative_masks, order_neurons, random_order
from ioca_jax.ablation.replacement import Resampled, resample
from ioca_jax.data import Dataset, Split
from ioca_jax.devices import place_examples, use_all_cores
from ioca_jax.inference.faithfulness import MIB_FRACTIONS as MIB_FRACTIONS
from ioca_jax.inference.faithfulness import faithfulness
from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.information import (
    entropy,
    kl_selectivity,
    mutual_information,
    permutation_null,
)
from ioca_jax.measures.neurons import NeuronStatistics, measure_neurons
from ioca_jax.measures.quantization import (
    Quantile,
    Threshold,
    Uniform,
    encode,
    quantile_labels,
    quantize,
    quantizer_edges,
)
from ioca_jax.measures.scores import Measurement, Score
from ioca_jax.networks.imports import from_sklearn, from_torch
from ioca_jax.networks.layers import Ablation, Layer
from ioca_jax.networks.models import CNN, MLP
from ioca_jax.networks.network import Network
from ioca_jax.networks.tracing import trace_network
from ioca_jax.sources import load_dataset

if TYPE_CHECKING:
    from ioca_jax.ablation.clamps import optimal_clamp
    from ioca_jax.ablation.learned import learned_order
    from ioca_jax.ablation.pruning import prune
    from ioca_jax.inference.areas import area_under_curve
    from ioca_jax.inference.claims import judge_claims
    from ioca_jax.inference.faithful_orders import compare_faithfulness
    from ioca_jax.inference.hypotheses import form_hypotheses
    from ioca_jax.inference.order_tests import compare_orders
    from ioca_jax.networks.trained import Trained
    from ioca_jax.networks.training import TrainConfig, train
    from ioca_jax.plots.evaluations import plot_curve
    from ioca_jax.report.summary import summarize
    from ioca_jax.report.tables import findings, load_table
    from ioca_jax.results.files import load_results
    from ioca_jax.study.config import StudyConfig
    from ioca_jax.study.merge import merge_runs
    from ioca_jax.study.plan import Shard
    from ioca_jax.study.run import load_networks, run_study

# Imported when first used: xarray, pandas, SciPy, matplotlib and Optax take seconds.
_LATER = {
    "optimal_clamp": "ablation.clamps",
    "learned_order": "ablation.learned",
    "prune": "ablation.pruning",
    "TrainConfig": "networks.training",
    "Trained": "networks.trained",
    "train": "networks.training",
    "area_under_curve": "inference.areas",
    "judge_claims": "inference.claims",
    "form_hypotheses": "inference.hypotheses",
    "compare_faithfulness": "inference.faithful_orders",
    "compare_orders": "inference.order_tests",
    "plot_curve": "plots.evaluations",
    "findings": "report.tables",
    "load_table": "report.tables",
    "summarize": "report.summary",
    "load_results": "results.files",
    "StudyConfig": "study.config",
    "load_networks": "study.run",
    "merge_runs": "study.merge",
    "run_study": "study.run",
    "Shard": "study.plan",
}
_LATER_PACKAGES = ("inference", "plots", "report", "results", "study")

__version__ = "2.0.0"

__all__ = [
    "CNN",
    "MLP",
    "Ablation",
    "Dataset",
    "Evaluation",
    "Layer",
    "Measurement",
    "Metric",
    "Network",
    "NeuronStatistics",
    "Quantile",
    "Resampled",
    "Score",
    "Shard",
    "Split",
    "StudyConfig",
    "Threshold",
    "TrainConfig",
    "Trained",
    "Uniform",
    "ablation_curve",
    "ablation_curves",
    "area_under_curve",
    "compare_faithfulness",
    "compare_orders",
    "cumulative_masks",
    "encode",
    "entropy",
    "evaluate_masks",
    "faithfulness",
    "findings",
    "form_hypotheses",
    "from_sklearn",
    "from_torch",
    "joint_counts",
    "judge_claims",
    "kl_selectivity",
    "learned_order",
    "load_dataset",
    "load_networks",
    "load_results",
    "load_table",
    "measure_neurons",
    "merge_runs",
    "mutual_information",
    "optimal_clamp",
    "order_neurons",
    "permutation_null",
    "place_examples",
    "plot_curve",
    "prune",
    "quantile_labels",
    "quantize",
    "quantizer_edges",
    "random_order",
    "resample",
    "run_study",
    "summarize",
    "trace_network",
    "train",
    "use_all_cores",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_LATER_PACKAGES})


if not TYPE_CHECKING:  # else any name would pass for one of ours

    def __getattr__(name: str) -> Any:
        if name in _LATER_PACKAGES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_LATER[name]}")
        globals()[name] = value = getattr(module, name)
        return value

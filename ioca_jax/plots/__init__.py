"""Figures of results: each function takes results or tables and returns a ``Figure``.

ValueErrors name what a figure needs and the results lack: a network that converged,
variables of interactions or of training, or a clamp, measure or order.
"""

from ioca_jax.plots.comparisons import claims_overview as claims_overview
from ioca_jax.plots.comparisons import compare_runs as compare_runs
from ioca_jax.plots.comparisons import pruning_curves as pruning_curves
from ioca_jax.plots.curves import ablation_curves as ablation_curves
from ioca_jax.plots.curves import bias_balancing as bias_balancing
from ioca_jax.plots.curves import class_curves as class_curves
from ioca_jax.plots.curves import difference_curves as difference_curves
from ioca_jax.plots.curves import order_effects as order_effects
from ioca_jax.plots.curves import published_points as published_points
from ioca_jax.plots.evaluations import plot_curve as plot_curve
from ioca_jax.plots.groups import joint_information_curves as joint_information_curves
from ioca_jax.plots.groups import redundancy_indices as redundancy_indices
from ioca_jax.plots.neurons import class_costs as class_costs
from ioca_jax.plots.neurons import class_damage as class_damage
from ioca_jax.plots.neurons import measure_distributions as measure_distributions
from ioca_jax.plots.neurons import measure_scatter as measure_scatter
from ioca_jax.plots.neurons import single_effects as single_effects
from ioca_jax.plots.pairs import pair_agreement as pair_agreement
from ioca_jax.plots.pairs import pair_matrices as pair_matrices
from ioca_jax.plots.save import save_figure as save_figure
from ioca_jax.plots.save import save_figures as save_figures
from ioca_jax.plots.training import information_plane as information_plane
from ioca_jax.plots.training import training_history as training_history
from ioca_jax.plots.training import trajectories as trajectories

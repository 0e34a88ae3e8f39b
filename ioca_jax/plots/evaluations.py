"""Ablation curves of single networks, without a study."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ioca_jax.ablation.evaluation import UNITS, Evaluation
from ioca_jax.plots import style


def plot_curve(
    evaluation: Evaluation | Mapping[str, Evaluation],
    metric: str = "accuracy",
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draws a metric along an ablation curve, or along several by label.

    Args:
        evaluation: of ``ablation_curve`` or ``ablation_curves``. Of several curves, of
            networks or orders along leading axes, the mean is drawn with a band of ±
            one standard deviation.
        metric: ``accuracy``, ``loss``, or another that the curve was evaluated by.
        ax: where to draw; None is a new figure of pyplot, as wide as a paper's column.

    Returns:
        The axes, whose figure is ``.figure``.

    Raises:
        ValueError: a metric that an evaluation lacks, or the evaluation of masks.

    Example:
        >>> import jax, jax.numpy as jnp, ioca_jax as ioca
        >>> model = ioca.MLP(hidden=(3, 2), num_classes=2)
        >>> x, y = jax.random.normal(jax.random.key(0), (40, 4)), jnp.arange(40) % 2
        >>> variables = model.init(jax.random.key(1), x)
        >>> order = ioca.random_order(jnp.arange(5), key=jax.random.key(2))
        >>> curve = ioca.ablation_curve(model, variables, order, 0.0, x, y)
        >>> axes = ioca.plot_curve({"random order": curve}, "loss")
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('neurons ablated', 'loss (nats)')
        >>> axes.figure.savefig("curve.pdf")
    """
    several = isinstance(evaluation, Mapping)
    curves = []
    for index, (label, one) in enumerate(
        evaluation.items() if several else [("", evaluation)]
    ):
        if metric not in one.metrics:
            raise ValueError(
                f"metric: expected one of {', '.join(one.metrics)}, got {metric!r}; "
                "ablation_curve(..., metrics=) evaluates others"
            )
        steps = one.steps
        values = np.asarray(one.metrics[metric]).reshape(-1, len(steps))
        curve = xr.DataArray(values, {"step": steps}, ("seed", "step"))
        curves.append((curve, style.look(index, label=label)))
    if ax is None:
        from matplotlib import pyplot  # opens windows, which nothing else needs

        size = (style.COLUMN_WIDTH, 0.75 * style.COLUMN_WIDTH)
        ax = pyplot.subplots(figsize=size, layout="constrained")[1]
        style.prepare_axes(ax)
        style.set_integer_ticks(ax)
    style.draw_curves(ax, curves)
    ax.set_xlabel("neurons ablated")
    ax.set_ylabel(f"{metric} ({UNITS[metric]})" if metric in UNITS else metric)
    if several:
        ax.legend(fontsize=style.FONT, frameon=False)
    return ax

"""The calibration's draws have the laws that they are named after; it runs small."""

import numpy as np
import pytest
import scipy.stats

from experiments import calibration


def test_laws_of_families_have_their_mean_spread_and_skewness():
    z = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    drawn = {name: law(z) for name, law in calibration.FAMILY_LAWS.items()}
    for name, values in drawn.items():
        assert abs(values.mean()) < 1e-3, name
        if name.startswith("log-normal"):
            skewness = float(name.split()[-1])
            assert scipy.stats.skew(values) == pytest.approx(skewness, rel=0.04)
    # Of the 720 orders of six neurons, tau is 1 in one and 13/15 in five.
    taus, number = np.unique(drawn["tau of six neurons"].round(9), return_counts=True)
    np.testing.assert_allclose(taus, np.arange(-15, 16, 2) / 15)
    np.testing.assert_allclose(
        number[[0, 1, -2, -1]] / 1e5 * 360, [1, 5, 5, 1], atol=0.1
    )
    family = np.stack(
        [calibration._family(np.random.default_rng(i), 2) for i in range(500)]
    )
    correlation = np.corrcoef(family[:, 0, :2].T)[0, 1]
    assert abs(correlation - calibration.CORRELATION) < 4 * 0.91 / 500**0.5
    assert abs(np.corrcoef(family[:, :, 0].T)[0, 1]) < 4 / 500**0.5


def test_laws_of_single_comparisons_have_their_mean():
    for name, law in calibration.LAWS.items():
        values = law.draw(np.random.default_rng(0), (100, 400))
        error = values.std() / values.size**0.5
        assert abs(values.mean() - law.mean) < 4 * error, name


def test_the_row_has_the_interval_of_its_subsets():
    """The sixth of the 255 means of subsets from either end, of 1/40 of 256."""
    (row,) = calibration.row_with_one_apart().to_dict("records")
    chosen = np.arange(1, 256)[:, None] >> np.arange(8) & 1
    means = np.sort(chosen @ np.array(calibration.ROW) / chosen.sum(axis=1))
    assert row["95 % interval"] == f"{means[5]:+.3f} to {means[-6]:+.3f}"
    assert row["95 % interval"] == "+0.080 to +0.143"
    assert row["mean"] == "+0.112"
    assert row["p"] == f"{2 / 256:.4f}"


def test_the_calibration_runs_small(monkeypatch):
    monkeypatch.setattr(calibration, "SIZES", (3, 6))
    monkeypatch.setattr(calibration, "FAMILY_SIZES", (8,))
    monkeypatch.setattr(calibration, "PILOTS", (8,))
    skewed_law = {"log-normal, skewness 1.8": calibration._log_normal(0.5)}
    monkeypatch.setattr(calibration, "FAMILY_LAWS", skewed_law)
    covered, skewed, dependent, power, row = calibration.calibrate(20, 1).values()
    assert covered["law"].tolist() == list(calibration.LAWS)
    assert set(covered["disagree"]) == {"0.000"}
    # Of 20 intervals of 95 %, with a probability of 0.9997.
    normal = covered.to_dict("records")[0]
    assert min(float(normal[size]) for size in ("3", "6")) >= 0.75
    assert len(row) == 1
    (of_skewed,) = skewed.to_dict("records")
    assert 0.5 < float(of_skewed["mean skewness"]) < 1.5
    independent, *_, correlated = map(float, dependent["false"].tolist())
    assert correlated > independent
    assert power["pilot"].tolist() == [8]

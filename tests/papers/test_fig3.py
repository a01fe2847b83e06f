"""Figure 3: correlations over agents, their signs, and which of the claims they decide."""

from __future__ import annotations

import numpy as np

from pliant.claims import Resampled
from pliant.experiment import Setup
from pliant.papers.lyle2023.fig3 import COLUMNS, EXPERIMENT, Settings, name, setup
from pliant.plots.scatter import rank_correlation
from pliant.results import Results


def made(about: Setup, sign: dict[str, float]) -> Results:
    """Six seeds an arm: statistics follow the loss of plasticity with a sign a data set; units die in MLPs alone."""
    tables, generator = {}, np.random.default_rng(0)
    for arm in about.arms:
        data, net, mdp, _ = arm.split("_")
        for seed in range(6):
            lost, noise = generator.uniform(0.0, 0.4), 0.05 * generator.standard_normal(4)
            direction = sign[data]
            toward = {"true": 1.0, "random": -1.0, "sparse": 1.0}[mdp]
            last = {
                "parameter_norm": direction * lost, "weight_srank": direction * lost,
                "dead": lost if net == "mlp" else 0.0, "feature_rank": toward * lost,
            }  # fmt: skip
            row = {c: np.array([np.nan, value + n]) for (c, value), n in zip(last.items(), noise, strict=True)}
            row["dead"] = np.array([np.nan, last["dead"]])
            tables[arm, seed] = {
                "step": np.array([0, 10]), "diverged_at": np.array([-1, -1]),
                "probe_loss": np.array([0.1, 0.1 + lost]), **row,
            }  # fmt: skip
    return Results(tables)


def test_signs_that_differ_between_data_sets_are_seen() -> None:
    about = setup(Settings())
    assert len(about.arms) * 6 >= 128
    found = {c.text: c.check(made(about, {"mnist": -1.0, "cifar10": 1.0})).verdict for c in about.claims}
    texts = list(found)
    assert [found[text] for text in texts[:3]] == ["holds"] * 3
    assert found[texts[4]] == "holds"  # the feature rank, over rewards
    assert found[texts[-1]] == "holds"  # CNNs lose without dead units
    contrary = {c.text: c.check(made(about, {"mnist": 1.0, "cifar10": 1.0})).verdict for c in about.claims}
    assert [contrary[text] for text in texts[1:3]] == ["fails", "fails"]
    assert contrary[texts[5]] == "fails"  # one statistic explains it all


def test_a_correlation_has_an_interval_over_agents_within_settings() -> None:
    values = np.random.default_rng(1).standard_normal((4, 30, 2))
    values[..., 1] += values[..., 0]

    def statistic(v: np.ndarray) -> float:
        return rank_correlation(v[..., 0].ravel(), v[..., 1].ravel())

    claim = Resampled("they correlate", lambda r: values, statistic=statistic)
    found = claim.check(Results({}))
    assert found.verdict == "holds"
    assert 0.5 < found.effect.low < found.effect.mean < found.effect.high < 0.85
    assert found.p < 0.01
    assert Resampled("x", lambda r: -values[:, :1], statistic=statistic).check(Results({})).verdict == "inconclusive"


def test_a_scatter_says_how_many_runs_and_their_correlation() -> None:
    about = setup(Settings())
    (plot,) = about.plots
    grid = plot.grid(made(about, {"mnist": -1.0, "cifar10": 1.0}), about.look)
    row = next(row for row in grid.rows if row[:2] == ["weight norm", "CIFAR-10"])
    assert row[2] == "72"
    assert float(row[3]) > 0.9
    assert set(plot.columns()) == {"probe_loss", *COLUMNS.values()}
    assert name("mnist", "mlp", "true", "adam") in about.arms
    assert len(EXPERIMENT.setup(EXPERIMENT.settings("smoke")).arms) == 3

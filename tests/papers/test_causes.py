"""The toolbox's experiments about causes: what is asked when, what claims say of made-up numbers, the figure."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pliant.causes import EVERY
from pliant.claims import check
from pliant.experiment import find
from pliant.functional import units as functional
from pliant.nets import MLP, layer_norm
from pliant.network import Network
from pliant.optim import Adam
from pliant.papers.lyle2024 import swiss_cheese
from pliant.papers.toolbox import causes, planted
from pliant.plots import figures
from pliant.population import Member, Population
from pliant.results import Results
from pliant.run.train import train
from pliant.trials import Mechanisms


def table(parts, lost, baseline=0.5, tasks=4, asked=(1, 3), diverged=-1):
    """A run of 10 steps a task; parts of what was lost by column, at the end of some tasks."""
    step = np.arange(1, 10 * tasks + 1)
    at = np.isin(step, [10 * (task + 1) for task in asked])
    values = {"lost": lost, "probe_baseline": baseline, **parts}
    found = {name: np.where(at, value, np.nan) for name, value in values.items()}
    return found | {
        "step": step,
        "task": (step - 1) // 10,
        "end": step % 10 == 0,
        "accuracy": np.where(step % 10 == 0, 0.5, np.nan),
        "diverged_at": np.full(len(step), diverged),
    }


def mechanisms(setup):
    """What the arms of an experiment are asked about causes."""
    (found,) = {m for arm in setup.arms.values() for m in arm.trial.measures if isinstance(m, Mechanisms)}
    return found


def made(arms, columns, seeds=3, **rest):
    """Results where each arm lost `lost`, of which the given shares went to the given parts, the rest unexplained."""
    tables = {}
    for arm, (lost, shares) in arms.items():
        for seed in range(seeds):
            total = lost * (1 + 0.01 * seed)
            parts = {column: shares.get(name, 0.0) * total for name, column in columns.items() if name != "unexplained"}
            parts["lost/unexplained"] = total - sum(parts.values())
            tables[arm, seed] = table(parts, total, **rest)
    return Results(tables)


# -- causes ------------------------------------------------------------------------------------------------------------


def test_causes_are_asked_for_at_evenly_spaced_tasks_and_the_last():
    laptop = causes.EXPERIMENT.settings("laptop")
    for tasks, checkpoints, asked in ((50, 5, (9, 19, 29, 39, 49)), (7, 3, (1, 4, 6)), (4, 1, (3,))):
        settings = replace(laptop, num_tasks=tasks, checkpoints=checkpoints)
        assert mechanisms(causes.EXPERIMENT.setup(settings)).when.tasks == asked
    for tier in causes.EXPERIMENT.tiers:
        settings = causes.EXPERIMENT.settings(tier)
        setup = causes.EXPERIMENT.setup(settings)
        asked = mechanisms(setup)
        assert len(asked.when.tasks) == settings.checkpoints
        assert asked.when.tasks[-1] == setup.arms["none"].trial.task.num_tasks - 1
        assert asked.probe.classes == 10
        assert {f"lost/{repair.name}" for repair in asked.repairs} < set(setup.plots[0].columns())
        assert set(setup.plots[0].columns()) <= {column.column for column in setup.table}


SHARES = {
    "none": (0.4, {"units": 0.8, "norm growth": 0.1}),
    "layer_norm": (0.3, {"norm growth": 0.7}),
    "l2": (0.2, {"output layer": 1.2}),
    "both": (0.01, {}),
}


def verdicts(claims, results):
    return [checked.verdict for checked in check(claims, results)]


def test_claims_about_causes():
    assert verdicts(causes.CLAIMS, made(SHARES, causes.PARTS)) == ["holds", "holds"]
    swapped = SHARES | {"none": (0.4, {"units": 0.2}), "layer_norm": (0.3, {"norm growth": 0.1, "units": 0.9})}
    assert verdicts(causes.CLAIMS, made(swapped, causes.PARTS)) == ["fails", "fails"]
    healthy = SHARES | {"none": (0.01, {"units": 0.8})}  # a share of nothing
    assert verdicts(causes.CLAIMS, made(healthy, causes.PARTS)) == ["inconclusive", "holds"]
    probed = with_fresh(made(healthy, causes.PARTS), 0.9)
    assert "precondition not met: The plain" in check(causes.CLAIMS, probed)[0].reason
    assert verdicts(causes.CLAIMS, made(SHARES, causes.PARTS, seeds=1)) == ["inconclusive"] * 2


def with_fresh(results, learned):
    """The results with the loss of fresh networks, which learn a share of the constant predictor's."""
    for run in results.tables.values():
        run["probe_fresh"] = (1 - learned) * run["probe_baseline"]
    return results


def test_no_verdict_where_fresh_networks_do_not_learn_the_probe():
    for claims, shares in ((causes.CLAIMS, SHARES), (CLAIMS, FOUND)):
        parts = causes.PARTS if claims is causes.CLAIMS else planted.PARTS
        known = check(claims, with_fresh(made(shares, parts), 0.9))
        assert {one.verdict for one in known} == {"holds"}
        unknown = check(claims, with_fresh(made(shares, parts), 0.1))
        assert {one.verdict for one in unknown} == {"inconclusive"}
        assert all("precondition not met: Fresh networks learn the probe" in one.reason for one in unknown)
        older = check(claims, made(shares, parts))  # recorded before their loss was: they learned what was lost
        assert {one.verdict for one in older} == {"holds"}


def test_the_figure_stacks_what_each_mechanism_took():
    setup = causes.EXPERIMENT.setup(causes.EXPERIMENT.settings("smoke"))
    arms = list(setup.arms)
    shares = dict(zip(arms, SHARES.values(), strict=True))
    shares[arms[1]] = (0.3, {"norm growth": 1.5, "units": -0.2})  # negative parts hang below 0
    results = made(shares, causes.PARTS)
    drawn = figures.figure("title", setup.plots, results, setup.look)
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in drawn.axes]
    assert titles == [arm.label for arm in setup.arms.values()]
    assert figures.svg(drawn) == figures.svg(figures.figure("title", setup.plots, results, setup.look))

    def ends(axes):
        points = np.concatenate([path.vertices for area in axes.collections for path in area.get_paths()])
        return points[:, 0].min(), points[:, 0].max(), points[:, 1].min(), points[:, 1].max()

    mean = 1.01  # of the seeds' factors
    assert ends(drawn.axes[0]) == pytest.approx((2, 4, 0, 0.4 * mean))  # 80 %, 10 % and a rest of 10 %
    assert ends(drawn.axes[1]) == pytest.approx((2, 4, -0.5 * 0.3 * mean, 1.5 * 0.3 * mean))
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == list(causes.PARTS)


def test_sentences_say_what_took_it_and_what_to_do():
    arms = {
        "none": (2.0, {"units": 1.1, "optimizer state": -0.2}),
        "layer_norm": (0.5, {"norm growth": 0.7, "units": 0.3}),
        "both": (0.01, {}),
    }
    results = made(arms, causes.PARTS, baseline=2.3)
    said = {arm: swiss_cheese._causes(results, arm) for arm in arms}
    assert said["none"] == (
        "On new labels it lost 2.02 nats [1.97, 2.07] against fresh networks: units 2.22 nats (92%), unexplained 0.20 "
        "nats (8%).\nKeeping the optimizer's state helps here: clearing it costs 0.40 nats.\nTreat units with: "
        "LayerNorm(), ReDo(tau=0.0)."
    )
    assert said["layer_norm"].endswith(
        'Treat norm growth with: L2(1e-4), NormalizeAndProject(scales="project"); treat units with: ReDo(tau=0.0).'
    )
    assert said["both"] == "On new labels it is as good as fresh networks (+0.01 nats [0.01, 0.01]): nothing to treat."
    one = swiss_cheese._causes(made(arms, causes.PARTS, baseline=2.3, seeds=1), "none")
    assert "lost 2.00 nats against" in one
    assert "Treat units with" in one
    assert "Keeping" not in one  # of one seed nobody knows
    assert "(8%), optimizer state -0.40 nats." in one  # yet the numbers sum to what was lost
    for table in results.tables.values():
        table["probe_fresh"] = np.where(np.isnan(table["lost"]), np.nan, 2.2)
    assert swiss_cheese._causes(results, "none") == (
        "Cannot tell what it lost: fresh networks did not learn new labels either (loss 2.20 of 2.30); take more steps."
    )


def test_bars_of_each_arm_sum_to_what_it_lost():
    setup = causes.EXPERIMENT.setup(causes.EXPERIMENT.settings("smoke"))
    plot = setup.plots[1]
    results = made(SHARES, causes.PARTS)
    for arm, (lost, _) in SHARES.items():
        fall = plot.of(results, arm)
        assert fall.now == pytest.approx(1.01 * lost)
        assert sum(fall.percent.values()) == 100
    drawn = figures.figure("title", [plot], results, setup.look)
    assert len(drawn.axes) == 4
    assert figures.svg(drawn) == figures.svg(figures.figure("title", [plot], results, setup.look))
    for table in (table for (arm, _), table in results.tables.items() if arm == "none"):
        table["lost/units"] = np.full_like(table["lost/units"], np.nan)  # it diverged
    figures.svg(figures.figure("title", [plot], results, setup.look))
    grid = plot.grid(results, setup.look)
    assert grid.headings == ["arm", "fresh networks", *causes.PARTS, "this network"]
    demo = swiss_cheese.EXPERIMENT.setup(swiss_cheese.EXPERIMENT.settings("demo"))
    assert demo.plots[-1] == plot


def test_probing_leaves_training_alone_and_its_parts_sum_up():
    settings = causes.EXPERIMENT.settings("smoke", ["num_tasks=2", "checkpoints=1", "steps=5", "every=20"])
    setup = causes.EXPERIMENT.setup(settings)
    trial = setup.arms["none"].trial
    found = train(trial, [0, 1]).tables
    asked = mechanisms(setup)
    plain = train(replace(trial, measures=tuple(m for m in trial.measures if m != asked)), [0, 1]).tables
    for seed in (0, 1):
        for name, values in plain[seed].items():
            if name != "elapsed_seconds":
                np.testing.assert_array_equal(found[seed][name], values)
        asked = ~np.isnan(found[seed]["lost"])
        assert found[seed]["step"][asked].tolist() == [40]
        parts = [found[seed][column][asked] for column in causes.PARTS.values()]
        np.testing.assert_allclose(np.sum(parts, 0), found[seed]["lost"][asked], rtol=0, atol=1e-12)
        assert found[seed]["probe_baseline"][asked] == pytest.approx(np.log(10))
    assert found[0]["lost"][-1] != found[1]["lost"][-1]


# -- planted -----------------------------------------------------------------------------------------------------------

NETS = ("mlp", "transformer")
CLAIMS = planted.claims(NETS)
LEADS = {  # by arm, the mechanism that has to lead
    planted.arm(cause, net, normed): mechanism
    for net in NETS
    for normed in (False, True)
    for cause, mechanism in planted.causes(net, normed).items()
}
HEALTHY = [planted.arm("healthy", net, normed) for net in NETS for normed in (False, True)]
FOUND = {
    **{name: (0.02, {}) for name in HEALTHY},
    **{name: (0.3, {mechanism: 0.6, "output layer": 0.3}) for name, mechanism in LEADS.items()},
    planted.SHIFTED: (0.3, {"units": 0.2, "target scale": 0.7}),
}


def checked(changes):
    found = made(FOUND | changes, planted.PARTS, tasks=1, asked=(0,))
    names = [*LEADS, "shifted", "rest", "healthy", "mildest"]
    return dict(zip(names, verdicts(CLAIMS, found), strict=True))


def test_claims_about_what_was_planted():
    assert set(checked({}).values()) == {"holds"}
    for name, mechanism in LEADS.items():
        wrong = checked({name: (0.3, {mechanism: 0.3, "output layer": 0.6})})
        assert wrong.pop(name) == "fails"
        assert set(wrong.values()) == {"holds"}
    assert checked({"units-mlp": (0.01, {"units": 0.9})})["units-mlp"] == "inconclusive"  # nothing was lost
    assert checked({"units-mlp": (0.01, {"units": 0.9})})["mildest"] == "fails"
    wrong = checked({planted.SHIFTED: (0.3, {"units": 0.2, "target scale": 0.1})})
    assert (wrong["shifted"], wrong["rest"]) == ("fails", "fails")
    assert checked({"healthy-transformer": (0.2, {})})["healthy"] == "fails"


def test_every_planted_cause_has_an_arm_a_claim_and_a_repair():
    settings = planted.EXPERIMENT.settings("laptop")
    setup = planted.EXPERIMENT.setup(replace(settings, nets=NETS))
    assert set(setup.arms) == set(FOUND)
    every = planted.EXPERIMENT.setup(settings)
    assert set(setup.arms) < set(every.arms)
    names = {repair.name for repair in EVERY}
    assert {"output layer"} == names - set(LEADS.values())
    assert mechanisms(every).when.tasks == (every.arms["units-mlp"].trial.task.num_tasks - 1,)
    assert set(every.columns()) >= {f"lost/{name}" for name in names} | {"lost/unexplained"}
    with pytest.raises(ValueError, match="mlp"):
        planted.EXPERIMENT.setup(replace(settings, nets=("mpl",)))
    assert find("toolbox/planted") is planted.EXPERIMENT
    assert find("toolbox/causes") is causes.EXPERIMENT


def damaged(plant, norm=None):
    """A small regression network after 3 steps, with the damage after the last and without it; and the batch."""
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    y = torch.zeros(1, 50, 2).double()
    found = []
    for chain in ([plant], []):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Network(MLP((4,), 2, hidden=(6, 6), norm=norm), example=x[:4].float())
        members = [Member(0, Adam(1e-4), planted.Chain(*chain))]
        population = Population(network, torch.nn.functional.mse_loss, members, dtype=torch.float64)
        state = population.init()
        for _ in range(3):
            population.step(state, x[None], y)
        params = {name: p[0] for name, p in state.params.items()}
        found.append((params, {kind: group for kind, group in state.moments.items() if kind != "step"}))
    return network, x, *found


def test_killed_units_are_three_quarters_of_each_layer():
    network, x, (params, _), (before, _) = damaged(planted.KillUnits(3))
    for site in network.trace(params, x).sites.values():
        assert functional.dead(site.slope)[:4].all()
    for name, p in params.items():
        if name in network.head:
            assert torch.equal(p, before[name])
        else:
            assert torch.equal(p[4:], before[name][4:])


def test_killed_units_behind_a_normaliser():
    network, x, (params, _), (before, _) = damaged(planted.KillUnits(3), layer_norm)
    for site in network.trace(params, x).sites.values():
        assert functional.dead(site.slope)[:4].all()
    assert {n for n, p in params.items() if not torch.equal(p, before[n])} == network.normalisers


GROWN = {
    planted.GrowNorms(3, 30.0): (30.0, {"hidden.0", "hidden.1"}, set()),
    planted.GrowBeforeNormalisers(3, 30.0): (30.0, set(), {"hidden.0", "hidden.1"}),
    planted.ScaleNormalisers(3, 0.1): (0.1, set(), {"norms.0", "norms.1"}),
    planted.ScaleOutputs(3, 30.0): (30.0, {"output"}, {"output"}),
}


@pytest.mark.parametrize("plant", GROWN, ids=lambda plant: type(plant).__name__)
@pytest.mark.parametrize("norm", [None, layer_norm], ids=["plain", "norm"])
def test_scales_that_are_planted(plant, norm):
    by, plain, normed = GROWN[plant]
    if not (normed if norm else plain):
        return
    network, x, (params, moments), (before, early) = damaged(plant, norm)
    for name, p in params.items():
        grown = name.rpartition(".")[0] in (normed if norm else plain)
        torch.testing.assert_close(p, by * before[name] if grown else before[name], rtol=1e-3, atol=1e-12)
    assert all(torch.equal(m, early[kind][name]) for kind, group in moments.items() for name, m in group.items())
    if isinstance(plant, planted.GrowBeforeNormalisers):
        torch.testing.assert_close(network(params, x), network(before, x), rtol=1e-3, atol=1e-3)


def test_shifted_preactivations():
    *_, (params, _), (before, _) = damaged(planted.ShiftPreactivations(3, 2.0))
    assert {n for n, p in params.items() if not torch.equal(p, before[n])} == {"hidden.0.bias", "hidden.1.bias"}
    torch.testing.assert_close(params["hidden.0.bias"], before["hidden.0.bias"] + 2)


def test_weights_of_one_direction():
    *_, (params, _), (before, _) = damaged(planted.OneDirection(3))
    assert {n for n, p in params.items() if not torch.equal(p, before[n])} == {"hidden.0.weight", "hidden.1.weight"}
    for name in ("hidden.0.weight", "hidden.1.weight"):
        old, new = (torch.linalg.svdvals(p[name]) for p in (before, params))
        torch.testing.assert_close(new.norm(), old.norm())
        torch.testing.assert_close(new[1:] / new[0], 0.005 * old[1:] / old[0])


def test_stale_moments():
    _, _, (params, moments), (before, early) = damaged(planted.StaleMoments(3))
    assert all(torch.equal(p, before[name]) for name, p in params.items())
    assert all(torch.equal(m, early["exp_avg"][name]) for name, m in moments["exp_avg"].items())
    assert all(torch.equal(m, 1e6 * early["exp_avg_sq"][name]) for name, m in moments["exp_avg_sq"].items())


def test_a_shifted_head_moves_the_mean_prediction_and_nothing_else():
    network, x, (params, _), (before, _) = damaged(planted.ShiftHead(3, 100.0))
    assert [name for name, p in params.items() if not torch.equal(p, before[name])] == ["output.weight"]
    shift = (network(params, x) - network(before, x)).mean(0)
    assert shift.tolist() == pytest.approx([100, 100], rel=0.01)  # the features are those before the last step

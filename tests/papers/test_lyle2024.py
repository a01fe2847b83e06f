"""The second paper's mechanisms: what their claims say of numbers made by hand, and what their arms train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from pliant.claims import Claim
from pliant.diagnostics import Observation
from pliant.experiment import Experiment, find
from pliant.functional import kernels as functional
from pliant.interventions import L2, Chain, LayerNorm
from pliant.nets import CNN, MLP
from pliant.network import Network
from pliant.optim import Shampoo
from pliant.papers.lyle2024 import axes, kernels, linearized, mechanisms, phases, robustness, smoothness, swiss_cheese
from pliant.results import Results
from pliant.run.train import train
from pliant.tasks import Composite, Growing, OffsetNoise, RandomLabels

EVERY = [axes, kernels, linearized, mechanisms, phases, robustness, smoothness]
Columns = Mapping[str, list[float]]


def table(columns: Columns, seed: int) -> dict[str, np.ndarray]:
    """Tasks of one row each, with a little of the seed in every number; constant columns stay so."""
    length = len(next(iter(columns.values())))
    found = {name: np.array(values) * (1 + 1e-4 * seed) for name, values in columns.items()}
    step = np.arange(1, length + 1)
    end = np.full(length, True)
    return found | {"step": step, "task": step - 1, "end": end, "diverged_at": np.full(length, -1)}


def made(arms: Mapping[str, Columns], make: Callable[[Columns, int], dict[str, np.ndarray]] = table) -> Results:
    return Results({(arm, seed): make(columns, seed) for arm, columns in arms.items() for seed in range(3)})


def verdicts(claims: tuple[Claim, ...], results: Results) -> list[str]:
    return [claim.check(results).verdict for claim in claims]


@pytest.mark.parametrize("module", EVERY, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_every_experiment_has_claims_of_the_checklist(module) -> None:
    experiment: Experiment = module.EXPERIMENT
    assert find(experiment.id) is experiment
    for tier in ("laptop", "paper"):
        setup = experiment.setup(experiment.settings(tier))
        assert {line for claim in setup.claims for line in claim.checklist}


# -- swiss_cheese ------------------------------------------------------------------------------------------------------


def test_the_pair_is_trained_with_both_variants_of_l2() -> None:
    setup = swiss_cheese.setup(swiss_cheese.EXPERIMENT.settings("laptop"))
    chains = {arm: setup.arms[arm].trial.chain for arm in ("both", "both_weights")}  # type: ignore[attr-defined]
    assert chains["both"] == Chain(LayerNorm(), L2(1e-4, normalisers=True))
    assert chains["both_weights"] == Chain(LayerNorm(), L2(1e-4, normalisers=False))
    assert chains["both"] != chains["both_weights"]
    assert list(swiss_cheese.setup(swiss_cheese.EXPERIMENT.settings("demo")).arms) == [
        "none",
        "l2",
        "layer_norm",
        "both",
    ]


# -- smoothness --------------------------------------------------------------------------------------------------------


def smooth(last: dict[float, float], lost: dict[float, float]) -> Results:
    return made(
        {smoothness.name(f): {"accuracy": [0.99, last[f]], "lost": [np.nan, lost[f]]} for f in (0.01, 0.1, 0.5, 1.0)}
    )


GENTLE = {0.01: 0.9, 0.1: 0.6, 0.5: 0.3, 1.0: 0.1}
TOOK = {0.01: 0.1, 0.1: 0.5, 0.5: 1.0, 1.0: 2.0}


def test_smoothness() -> None:
    claims = smoothness.CLAIMS
    assert verdicts(claims, smooth(GENTLE, TOOK)) == ["holds"] * 5
    backwards = {f: 1 - accuracy for f, accuracy in GENTLE.items()}
    assert verdicts(claims, smooth(backwards, {f: 1 - loss for f, loss in TOOK.items()}))[:3] == ["fails"] * 3
    assert verdicts(claims, smooth(GENTLE | {0.01: 1.0}, TOOK | {0.01: -0.1}))[3:] == ["fails", "fails"]


def test_smoothness_matches_the_total_change_and_refuses_what_does_not() -> None:
    settings = smoothness.EXPERIMENT.settings("laptop")
    arms = smoothness.setup(settings).arms
    steps = {arm.trial.num_steps for arm in arms.values()}
    assert steps == {settings.every * settings.num_tasks}
    for fraction in settings.fractions:
        task = arms[smoothness.name(fraction)].trial.task  # type: ignore[attr-defined]
        assert task.num_tasks * round(fraction * settings.num_examples) == settings.num_tasks * settings.num_examples
    with pytest.raises(ValueError, match=r"expected fractions whose inverses are whole, such as .*, got 0\.3"):
        smoothness.setup(replace(settings, fractions=(0.3, 1.0)))


# -- linearized --------------------------------------------------------------------------------------------------------


def lines(plain: float, normalised: float, first: float = 0.9) -> Results:
    return made(
        {
            linearized.name(function, change, norm): {
                "accuracy": [first, 0.5], "linearized_last": [0.0, normalised if norm else plain],
            }
            for function in linearized.FUNCTIONS for change in linearized.CHANGES for norm in (False, True)
        }
    )  # fmt: skip


def test_linearized() -> None:
    assert verdicts(linearized.CLAIMS, lines(0.7, 0.1)) == ["holds"] * 8
    assert verdicts(linearized.CLAIMS, lines(0.3, 0.4)) == ["fails"] * 8
    assert set(verdicts(linearized.CLAIMS, lines(0.7, 0.1, first=0.2))) == {"inconclusive"}


def test_the_last_layers_units_are_counted() -> None:
    network = Network(MLP(3, 2, hidden=(4, 5)))
    params = network.params()
    params["hidden.1.bias"][:] = torch.tensor([100.0, 100.0, -100.0, 0.0, 0.0])  # two always on, one never
    seen = Observation(params, trace=network.trace(params, torch.randn(50, 3)))
    assert linearized.linearized_last(seen) == pytest.approx(0.4)
    assert linearized.dead_last(seen) == pytest.approx(0.2)


# -- mechanisms --------------------------------------------------------------------------------------------------------

FATE = {  # accuracy on the first and the last task, the norm's growth, dead units
    "none": (0.99, 0.1, 2.0, 0.8), "l2": (0.99, 0.4, 1.0, 0.6), "layer_norm": (0.99, 0.7, 5.0, 0.0),
    "both": (0.99, 0.99, 1.2, 0.0), "batch_norm": (0.99, 0.8, 4.0, 0.0), "batch_norm_l2": (0.99, 0.99, 1.2, 0.0),
    "feature_norm": (0.99, 0.3, 2.0, 0.5), "rescale": (0.6, 0.5, 1.0, 0.5), "redo": (0.99, 0.6, 2.0, 0.0),
    "leaky_relu": (0.99, 0.5, 2.0, 0.0), "gradient_norm": (0.99, 0.3, 2.0, 0.5), "infer": (0.99, 0.3, 2.0, 0.5),
    "shampoo": (0.99, 0.3, 2.0, 0.5),
}  # fmt: skip


def mixed(changes: dict[str, tuple[float, float, float, float]] | None = None) -> Results:
    fate = FATE | {mechanisms.cnn(arm): FATE[arm] for arm in mechanisms.CONVOLUTIONAL} | (changes or {})
    return made(
        {
            arm: {"accuracy": [first, last], "norm_ratio": [1.0, norm], "dead": [0.0, dead], "linearized": [0.0, 0.0]}
            for arm, (first, last, norm, dead) in fate.items()
        }
    )


def test_mechanisms() -> None:
    assert verdicts(mechanisms.CLAIMS, mixed()) == ["holds"] * 15
    one_net = mixed({"redo": (0.6, 0.9, 1.0, 0.0)})  # it falls on the CNN all the same
    assert verdicts(mechanisms.CLAIMS, one_net)[2] == "holds"
    neither = mixed({"redo": (0.6, 0.9, 1.0, 0.0), "cnn_redo": (0.6, 0.9, 1.0, 0.0)})
    assert verdicts(mechanisms.CLAIMS, neither)[2] == "fails"
    assert verdicts(mechanisms.CLAIMS, mixed({"both": (0.99, 0.2, 6.0, 0.9)}))[4:8] == [
        "fails",
        "holds",
        "fails",
        "fails",
    ]
    strong = {arm: (0.999, 0.999, 1.0, 0.0) for arm in ("feature_norm", "rescale", "infer", "gradient_norm", "shampoo")}
    assert verdicts(mechanisms.CLAIMS, mixed(strong))[8:] == ["fails"] * 7


def test_mechanisms_train_what_they_say() -> None:
    arms = mechanisms.setup(mechanisms.EXPERIMENT.settings("laptop")).arms
    assert isinstance(arms["shampoo"].trial.optimizer, Shampoo)  # type: ignore[attr-defined]
    assert len(arms) == len(mechanisms.WAYS) + len(mechanisms.CONVOLUTIONAL)
    assert isinstance(arms["cnn_both"].trial.net((1, 28, 28), 10), CNN)  # type: ignore[attr-defined]
    assert all(arm.trial.task.num_tasks == 21 for arm in arms.values())  # type: ignore[attr-defined]
    assert [type(i).__name__ for i in arms["both"].trial.chain] == ["LayerNorm", "L2"]  # type: ignore[attr-defined]


# -- axes --------------------------------------------------------------------------------------------------------------


def test_axes() -> None:
    def norms(**last: float) -> Results:
        return made({arm: {"accuracy": [0.99, value]} for arm, value in last.items()})

    assert verdicts(axes.CLAIMS, norms(layer_norm=0.9, batch_norm=0.9, hybrid=0.95, mirror=0.5)) == ["holds"] * 3
    assert verdicts(axes.CLAIMS, norms(layer_norm=0.9, batch_norm=0.9, hybrid=0.5, mirror=0.6)) == ["fails"] * 3


# -- robustness --------------------------------------------------------------------------------------------------------


def kinds(changes: dict[str, tuple[float, float, float, float]] | None = None) -> Results:
    fate = {robustness.name(stream, way): FATE[way] for stream in robustness.STREAMS for way in robustness.WAYS}
    return made(
        {
            arm: {"learned": [first, last], "norm_ratio": [1.0, norm], "dead": [0.0, dead], "linearized": [0.0, 0.0]}
            for arm, (first, last, norm, dead) in (fate | (changes or {})).items()
        }
    )


def test_robustness() -> None:
    assert verdicts(robustness.CLAIMS, kinds()) == ["holds"] * 11
    worn = {robustness.name(stream, "both"): (0.9, 0.3, 9.0, 0.9) for stream in robustness.STREAMS}
    assert verdicts(robustness.CLAIMS, kinds(worn))[3:9] == ["fails"] * 6
    low = {robustness.name(stream, "layer_norm"): (0.6, 0.5, 5.0, 0.0) for stream in robustness.STREAMS}
    assert verdicts(robustness.CLAIMS, kinds(low))[9:] == ["fails"] * 2


def test_streams_of_twenty_tasks() -> None:
    settings = robustness.EXPERIMENT.settings("laptop")
    found = {name: task for name, (_, task) in robustness.streams(settings).items()}
    assert [type(task) for task in found.values()] == [RandomLabels, Composite, Growing, OffsetNoise]
    assert {task.num_tasks for task in found.values()} == {20}
    growing, targets = found["growing"], found["targets"]
    assert isinstance(growing, Growing)
    assert isinstance(targets, OffsetNoise)
    assert growing.random
    assert (growing.size(0), growing.size(19)) == (64, settings.num_examples)
    assert isinstance(targets.offset, tuple)
    assert (targets.offset[0], targets.offset[-1]) == (0.0, settings.offset)


def test_what_is_learned_is_accuracy_or_the_share_explained() -> None:
    settings = robustness.EXPERIMENT.settings("smoke", ["every=40", "num_tasks=2", "lr=0.01"])
    arms = robustness.setup(settings).arms
    labels, numbers = (train(arms[name].trial, [100]).tables[100] for name in ("growing_none", "targets_none"))
    np.testing.assert_array_equal(labels["learned"], labels["accuracy"])
    assert 0 < numbers["learned"][0] < 1
    assert numbers["learned"][0] == pytest.approx(1 - numbers["loss"][0])
    assert numbers["loss"][1] > 1  # 40 steps do not reach a mean of 16
    assert numbers["learned"][1] == 0


# -- phases ------------------------------------------------------------------------------------------------------------


def stepwise(columns: Columns, seed: int) -> dict[str, np.ndarray]:
    """Two tasks of four rows; the last of each closes it."""
    end = np.array([False, False, False, True] * 2)
    found = {name: np.array(values) * (1 + 1e-4 * seed) for name, values in columns.items()}
    step = np.arange(1, 9)
    return found | {"step": step, "task": (step - 1) // 4, "end": end, "diverged_at": np.full(8, -1)}


PLAIN = {
    "accuracy": [0.3, 0.5, 0.8, 0.9, 0.1, 0.3, 0.5, 0.6], "one_sided": [0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
    "entropy": [2.0, 1.0, 0.5, 0.1, 0.5, 2.0, 1.0, 0.3], "pushed": [0.2, 0.2, 0.1, 0.1, 0.9, 0.6, 0.3, 0.2],
}  # fmt: skip
NORMED = PLAIN | {"one_sided": [0.0, 0.0, 0.0, 0.0, 0.2, 0.5, 0.1, 0.02]}


def test_phases() -> None:
    assert verdicts(phases.CLAIMS, made({"none": PLAIN, "layer_norm": NORMED}, stepwise)) == ["holds"] * 6
    still = {"one_sided": [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.4, 0.3], "entropy": [1.0] * 8}
    still |= {"pushed": [0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.4]}
    stays = NORMED | {"one_sided": [0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}
    found = verdicts(phases.CLAIMS, made({"none": PLAIN | still, "layer_norm": stays}, stepwise))
    assert found == ["fails", "holds", "fails", "fails", "fails", "fails"]


def observed(seed: int = 0) -> tuple[Network, Observation]:
    """A network whose first layer's gradient is known by autograd."""
    torch.manual_seed(seed)
    network = Network(MLP(3, 2, hidden=(4, 5)))
    params, x, y = network.params(), torch.randn(20, 3), torch.randint(0, 2, (20,))
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    loss = torch.nn.functional.cross_entropy(network(leaves, x), y)
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    trace = network.trace(params, x)
    return network, Observation(params, trace=trace, gradients=gradients, network=network, x=x)


def test_moves_are_those_of_a_small_step_down_the_gradient() -> None:
    network, seen = observed()
    assert seen.gradients is not None
    step = {n: p - 1e-3 * seen.gradients[n] for n, p in seen.params.items()}
    before, after = (next(iter(network.trace(p, seen.x).sites.values())).pre for p in (seen.params, step))
    torch.testing.assert_close(phases.moves(seen), (after - before) / 1e-3, rtol=1e-2, atol=1e-4)


def test_units_that_are_pushed_one_way_are_counted_among_those_that_move() -> None:
    _, seen = observed()
    x = torch.cat([torch.ones(19, 3), -torch.ones(1, 3)])
    gradients = {name: torch.zeros_like(p) for name, p in seen.params.items()}
    gradients["hidden.0.weight"][0] = 1.0  # 19 of 20 inputs down
    gradients["hidden.0.weight"][1, 0] = 1.0
    gradients["hidden.0.bias"][1] = 5.0  # all down
    gradients["hidden.0.weight"][2] = 1.0
    gradients["hidden.0.bias"][2] = 0.0
    assert phases.pushed(seen._replace(x=x, gradients=gradients)) == 1.0
    mixed = torch.cat([torch.ones(10, 3), -torch.ones(10, 3)])
    assert phases.pushed(seen._replace(x=mixed, gradients=gradients)) == pytest.approx(1 / 3)
    nothing = {name: torch.zeros_like(p) for name, p in seen.params.items()}
    assert phases.pushed(seen._replace(gradients=nothing)).isnan()


def test_histograms_count_all_units_those_beyond_the_ends_in_the_outermost() -> None:
    found = phases.histogram(torch.tensor([-9.0, -3.95, 0.05, 99.0]), -4.0, 4.0)
    assert found.nonzero().flatten().tolist() == [0, 20, 39]
    assert found.sum() == pytest.approx(1.0)
    assert phases.centres(-4.0, 4.0)[20] == pytest.approx(0.1)
    _, seen = observed()
    for values in (phases.means(seen), phases.alignment(seen)):
        assert values.sum() == pytest.approx(1.0)


def test_a_first_layer_that_is_no_matrix_of_inputs_is_refused() -> None:
    network = Network(CNN((1, 8, 8), 2, channels=(2, 2), hidden=(3,)))
    gradients = {name: torch.zeros_like(p) for name, p in network.params().items()}
    seen = Observation(network.params(), gradients=gradients, network=network, x=torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match=r"expected a network whose first layer convs\.0\.weight is linear"):
        phases.moves(seen)


def test_phases_look_at_every_step_and_behind_the_normaliser() -> None:
    arms = phases.setup(phases.EXPERIMENT.settings("laptop")).arms
    assert [type(i) for i in arms["layer_norm"].trial.chain] == [LayerNorm]  # type: ignore[attr-defined]
    assert arms["none"].trial.measures[0].when.first == 400  # type: ignore[attr-defined]


# -- kernels -----------------------------------------------------------------------------------------------------------


def worn(ranks: dict[str, tuple[float, float, float]], falling: bool = False) -> Results:
    """Ranks at the first step, at the end of the first task and of the last; norm and sharpness rise, or one falls."""

    def columns(arm: str) -> Columns:
        sharp = [1.0, 2.0, 3.0]
        norms = {"parameter_norm": [1.0, 2.0, 4.0], "sharpness": sharp[::-1] if falling else sharp}
        return norms | {"ntk_rank": list(ranks[arm])}

    return made({arm: columns(arm) for arm in kernels.ARMS})


def test_kernels() -> None:
    fall = {"offset": (40.0, 5.0, 4.0), "relu": (40.0, 30.0, 10.0), "leaky_relu": (40.0, 35.0, 20.0)}
    assert verdicts(kernels.CLAIMS, worn(fall)) == ["holds"] * 8
    rise = {"offset": (10.0, 20.0, 40.0), "relu": (10.0, 15.0, 20.0), "leaky_relu": (10.0, 9.0, 20.0)}
    assert verdicts(kernels.CLAIMS, worn(rise, falling=True)) == ["fails"] * 8


def test_the_kernel_is_the_trace_kernel_with_inputs_in_the_order_of_their_targets() -> None:
    torch.manual_seed(0)
    network = Network(MLP(3, 2, hidden=(4,)))
    params, x, y = network.params(), torch.randn(5, 3), torch.tensor([1, 0, 1, 0, 0])
    found = kernels.ntk(Observation(params, network=network, x=x, y=y))
    order = [1, 3, 4, 0, 2]
    rows = []
    for i in order:
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        outputs = network(leaves, x[i : i + 1])[0]
        rows.append(
            torch.stack([
                torch.cat([g.flatten() for g in torch.autograd.grad(one, list(leaves.values()), retain_graph=True)])
                for one in outputs
            ]).double()
        )  # fmt: skip
    expected = torch.tensor([[(a * b).sum() for b in rows] for a in rows])
    torch.testing.assert_close(found.double(), expected / expected.abs().max(), rtol=1e-4, atol=1e-5)
    assert functional.cosines(expected).diagonal().allclose(torch.ones(5).double())

"""Supervised trials: what is minimised, where networks begin, what fits together and what does not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from pliant.heads import TwoHot
from pliant.interventions import Chain, PlasticityInjection, ReDo
from pliant.nets import CNN, MLP, ViT
from pliant.optim import SGD, Adam
from pliant.run.rows import Rows
from pliant.tasks import Domains, OffsetNoise, PermutedPixels, RandomLabels, Waves
from pliant.trials import Fit, HeldOut, Supervised
from tests.trials.examples import EXAMPLES

LABELS = RandomLabels(num_examples=30, batch_size=10, every=4, num_tasks=2)
TRIAL = Supervised(LABELS, "digits", partial(MLP, hidden=(8,)), Adam(1e-3), measures=(Fit(),))


def own(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network with an initialisation of its own."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 6), nn.ReLU(), nn.Linear(6, outputs))
    nn.init.orthogonal_(net[1].weight, gain=10.0)
    nn.init.zeros_(net[3].bias)
    return net


def table(trial: Supervised, seeds: tuple[int, ...] = (0,)) -> dict:
    run, rows = trial.start(seeds), Rows(seeds)
    for row in run.rows:
        if row:
            rows.add(run.state.step, row, 0.0)
    return rows.tables(run.state.diverged_at)[seeds[0]]


def test_a_network_begins_and_is_drawn_again_as_its_function_makes_it() -> None:
    run = replace(TRIAL, net=own).start([0, 1])
    weight = run.state.params["1.weight"]
    expected = 10.0 * torch.eye(6)
    for m in range(2):
        torch.testing.assert_close(weight[m] @ weight[m].T / 10, expected, atol=1e-4, rtol=0)
    assert not torch.equal(weight[0], weight[1])
    assert (run.state.params["3.bias"] == 0).all()
    network = run.populations[0].network
    again = network.fresh(7, only={"1.weight"})["1.weight"]
    torch.testing.assert_close(again @ again.T / 10, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("net", [partial(MLP, hidden=(8, 4)), CNN, ViT], ids=["MLP", "CNN", "ViT"])
def test_first_draws_are_those_of_the_function_under_the_seed(net) -> None:
    trial = replace(TRIAL, net=net, data="digits")
    run = trial.start([3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        built = dict(net((1, 8, 8), 10).named_parameters())
    for name, p in run.state.params.items():
        assert torch.equal(p[0], built[name].detach()), name


def test_a_value_head_learns_numbers_and_its_error_is_on_one_scale() -> None:
    task = OffsetNoise(num_examples=30, batch_size=30, every=200, num_tasks=1, offset=1.0, outputs=2, noise=0.5)
    head = TwoHot(-2.0, 4.0, 25)
    trial = replace(TRIAL, task=task, optimizer=Adam(1e-2), head=head, measures=(Fit(head=head),))
    run = trial.start([0])
    assert run.state.params["output.weight"].shape[1] == 2 * 25
    found = table(trial)
    assert found["error"][-1] < 0.15 < 0.25
    x, y = trial.task.bind(trial.inputs(), [0]).examples(0)
    run = trial.start([0])
    output = run.populations[0].outputs(run.state.params, x)[0]
    expected = nn.functional.cross_entropy(output.reshape(-1, 25), head.encode(y[0]).reshape(-1, 25))
    torch.testing.assert_close(trial.loss(output, y[0]), expected)


def test_regression_targets_without_a_value_axis_get_one() -> None:
    waves = Waves(num_examples=30, batch_size=10, every=4, num_tasks=1, frequency=1.0)
    assert table(replace(TRIAL, task=waves))["loss"].shape == (1,)


def test_what_does_not_fit_together_is_said() -> None:
    with pytest.raises(ValueError, match="expected numbers to learn with TwoHot"):
        replace(TRIAL, head=TwoHot(0.0, 1.0, 3)).start([0])
    with pytest.raises(ValueError, match="expected num_examples to be at most"):
        replace(TRIAL, task=replace(LABELS, num_examples=10**6)).start([0])
    with pytest.warns(UserWarning, match=r"PlasticityInjection waits for .*, but this trial fires 'task_switch' only"):
        replace(
            TRIAL, net=partial(MLP, hidden=(8, 8)), chain=Chain(PlasticityInjection(layers=1, event="later"))
        ).start([0])


def test_permuted_pixels_have_the_true_labels() -> None:
    task = PermutedPixels(num_examples=200, batch_size=50, every=150, num_tasks=2)
    found = table(replace(TRIAL, task=task, optimizer=SGD(0.1)))
    assert found["accuracy"].min() > 0.5


def test_every_example_with_redo_finds_its_units() -> None:
    trial = EXAMPLES["Supervised"]
    assert any(isinstance(i, ReDo) for i in trial.chain)  # type: ignore[attr-defined]
    assert trial.start([0, 1, 2]).populations[0].network.units


def test_interventions_are_a_chain_and_measures_a_tuple() -> None:
    with pytest.raises(ValueError, match=r"got ReDo\(\.\.\.\): write chain=Chain\(ReDo\(\.\.\.\)\)"):
        replace(TRIAL, chain=ReDo(tau=0.0, every=5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got Fit\(\.\.\.\): write measures=\(Fit\(\.\.\.\),\)"):
        replace(TRIAL, measures=Fit())  # type: ignore[arg-type]


def test_held_out_numbers_are_those_of_the_test_set_of_the_place() -> None:
    task = Domains(num_examples=20, batch_size=5, every=3, num_tasks=3, num_held_out=12)
    trial = replace(TRIAL, task=task, data="cameras-digits", measures=(Fit(), HeldOut()))
    run, dataset = trial.start([0, 4]), trial.inputs()
    seen = 0
    for row in run.rows:
        if not row:
            continue
        for m, seed in enumerate((0, 4)):
            held_out = task.examples(dataset, seed, seen).held_out
            x = dataset.standardize(torch.from_numpy(dataset.x_test[held_out]))  # type: ignore[index]
            y = torch.from_numpy(dataset.y_test[held_out])  # type: ignore[index]
            outputs = run.populations[0].outputs(run.state.params, x.expand(2, *x.shape))[m]
            assert row["held_out_accuracy"][m] == pytest.approx(float((outputs.argmax(1) == y).float().mean()))
            assert row["held_out_loss"][m] == pytest.approx(float(nn.functional.cross_entropy(outputs, y)), rel=1e-5)
            assert row["held_out_constant"][m] == pytest.approx(max((y == c).float().mean().item() for c in range(11)))
        seen += 1
    assert seen == 3

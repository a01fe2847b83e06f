"""Padding has no part in probes and causes: whatever it holds, the same numbers, and those of unpadded sequences."""

import pytest
import torch
from torch import nn

from pliant import disentangle, plasticity
from pliant.network import Network
from pliant.optim import SGD, Adam
from pliant.probe import FreshLabels, Probe, Sines, Start, Training, refit
from pliant.probe.padding import Masked

LENGTHS = torch.tensor([5, 2, 3, 4, 1, 5, 2, 3])
MASK = torch.arange(5) < LENGTHS[:, None]


def tagger(width=3):
    """An answer for each token, made of that token."""
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, width))


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(value):
    return torch.where(MASK[..., None], draws(8, 5, 4), value)


@pytest.mark.parametrize("probe", [FreshLabels(3), Sines(frequency=3.0)], ids=["labels", "sines"])
@pytest.mark.parametrize("measure", [plasticity, disentangle])
def test_the_content_of_padding_changes_nothing(probe, measure):
    torch.manual_seed(0)
    model = tagger()
    how = {"optimizer": Adam(1e-2), "probe": probe, "targets": 2, "steps": 5, "mask": MASK}
    found = [measure(model, inputs=padded(value), **how) for value in (0.0, 50.0)]
    assert str(found[0]) == str(found[1])
    if measure is plasticity:
        assert (found[0].curves["now"] == found[1].curves["now"]).all()
        assert (found[0].baseline == found[1].baseline).all()
    else:
        assert found[0].evidence == found[1].evidence


def test_units_that_are_dead_but_for_padding_are_dead():
    torch.manual_seed(0)
    model = tagger()
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = torch.tensor([1.0, 0, 0, 0]), -20.0
    how = {"optimizer": SGD(0.1), "probe": FreshLabels(3), "targets": 2, "steps": 2}
    left_out = disentangle(model, inputs=padded(50.0), mask=MASK, **how)
    with_padding = disentangle(model, inputs=padded(50.0), **how)
    assert left_out.evidence["units"]["dead"] == pytest.approx(1 / 12)
    assert with_padding.evidence["units"]["dead"] == 0


@pytest.mark.parametrize("probe", [FreshLabels(3), Sines(frequency=3.0, offset=0.5)], ids=["labels", "sines"])
def test_a_masked_loss_is_the_mean_over_tokens(probe):
    network, x = Network(tagger()), padded(7.0)
    params = network.fresh(1)
    y = Masked(probe, MASK).targets(network, params, x, seed=3)
    plain = probe.targets(network, params, x, seed=3)
    output = network(params, x)
    tokens = [probe.loss(output[i : i + 1, t : t + 1], plain[i : i + 1, t : t + 1]) for i, t in MASK.nonzero()]
    assert Masked(probe, MASK).loss(output, y).item() == pytest.approx(torch.stack(tokens).mean().item(), rel=1e-5)
    scores = refit(network, Masked(probe, MASK), [Start(params, y)], x, Training(SGD(0.0)), steps=1).scores
    assert scores[0, 0] == pytest.approx(torch.stack(tokens).mean().item(), rel=1e-5)


def test_sines_lie_around_the_mean_prediction_of_real_tokens():
    network, x = Network(tagger()), padded(7.0)
    params = network.fresh(1)
    probe, unmoved = Sines(frequency=3.0), Sines(frequency=3.0, offset=0.0)
    y, waves = (Masked(p, MASK).targets(network, params, x, seed=3) for p in (probe, unmoved))
    output = network(params, x)
    for t in range(5):
        mean = output[MASK[:, t], t].mean(0)
        torch.testing.assert_close((y - waves)[MASK[:, t], t], mean.expand(int(MASK[:, t].sum()), 3))
    expected = torch.stack([(y[MASK[:, t], t] - y[MASK[:, t], t].mean(0)).square().sum() for t in range(5)]).sum()
    assert probe.baseline(y) == pytest.approx(float(expected / (3 * MASK.sum())), rel=1e-5)


def test_what_cannot_leave_padding_out_says_so():
    class Own(Probe):
        reference, unit = "lyle2023", "nats"

        def targets(self, network, params, x, seed):
            return torch.zeros(x.shape[:2], dtype=torch.int64)

        def loss(self, output, y):
            return output.square().mean()

        def baseline(self, y):
            return 1.0

    how = {"inputs": padded(0.0), "optimizer": Adam(1e-2), "targets": 2, "steps": 2}
    with pytest.raises(ValueError, match=r"says the loss of every token.*got Own: write its method each"):
        plasticity(tagger(), probe=Own(), mask=MASK, **how)
    with pytest.raises(ValueError, match=r"expected a boolean mask of shape \(batch, tokens\)"):
        plasticity(tagger(), probe=FreshLabels(3), mask=MASK[:, :3], **how)
    pooled = nn.Sequential(nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.warns(UserWarning, match="mask= has no effect: Sequential gives no output for each token"):
        plasticity(pooled, probe=FreshLabels(3), mask=MASK, **how)

"""A reset that is right passes every check, and each mistake is found by the check that is for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant import Chain, ReDo
from pliant.testing import check_reset

X = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def mlp(norm: Callable[[int], nn.Module] = lambda _: nn.Identity()) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [nn.Linear(36, 24), norm(24), nn.ReLU(), nn.Linear(24, 18), norm(18), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(18, 3))


def cnn() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 9, 3), nn.ReLU(), nn.Conv2d(9, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 12)]
        return nn.Sequential(*body, nn.ReLU(), nn.Linear(12, 3))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-3)


OPTIMIZERS = {"Adam": adam, "SGD": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9)}


class Reset:
    """Recycling as one writes it for a stack of layers, with a mistake if wanted."""

    def __init__(self, mistake: str = ""):
        self.mistake = mistake

    def __call__(self, model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        layers = [layer for layer in model if isinstance(layer, (nn.Linear, nn.Conv2d))]
        dead = [(layer.weight == 0).flatten(1).all(1) for layer in layers[:-1]]
        with torch.no_grad():
            for layer, units in zip(layers, dead, strict=False):
                self.draw(layer, units, optimizer)
            for layer, following, units in zip(layers, layers[1:], dead, strict=False):
                self.silence(layer, following, units, optimizer)

    def draw(self, layer: Any, units: Tensor, optimizer: torch.optim.Optimizer) -> None:
        old, seed = layer.weight.clone(), torch.get_rng_state()
        if self.mistake == "one seed":
            torch.manual_seed(0)
        layer_bias = layer.bias.clone()
        layer.reset_parameters()
        new = layer.weight.clone() * (3 if self.mistake == "three times the scale" else 1)
        if self.mistake == "one seed":
            torch.set_rng_state(seed)
        if self.mistake == "normal of the same deviation":
            new = torch.randn_like(new) * new.std()
        layer.weight.copy_(old)
        layer.bias.copy_(torch.where(units, 0.0, layer_bias))
        if self.mistake == "every other one":
            units = units & (units.cumsum(0) % 2 == 1)
        if self.mistake == "one unit too many":
            units = units.clone()
            units[0] = True
        if self.mistake == "a channel of the input":
            layer.weight[:, : len(units)][:, units[: layer.weight.shape[1]]] = new[:, : len(units)][
                :, units[: layer.weight.shape[1]]
            ]
        else:
            layer.weight[units] = new[units]
        self.clear(optimizer, layer.weight, units)
        self.clear(optimizer, layer.bias, units)

    def silence(self, layer: Any, following: Any, units: Tensor, optimizer: torch.optim.Optimizer) -> None:
        per = following.weight.shape[1] // len(units)
        columns = units.repeat_interleave(per)
        if self.mistake == "flattened as if channels came last":
            columns = units.repeat(per)
        if self.mistake != "outgoing kept":
            following.weight[:, columns] = 0.0
        if self.mistake != "moments of what reads":
            for value in optimizer.state[following.weight].values():
                if value.shape == following.weight.shape:
                    value[:, columns] = 0.0

    def clear(self, optimizer: torch.optim.Optimizer, p: Tensor, units: Tensor) -> None:
        if self.mistake == "moments kept":
            return
        if self.mistake == "all state cleared":
            optimizer.state[p].clear()
        for value in optimizer.state[p].values():
            if value.shape == p.shape:
                value[units] = 0.0


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_reset_that_is_right_passes(make: Callable[[], nn.Sequential], optimizer: str) -> None:
    model = make()
    found = check_reset(Reset(), model, OPTIMIZERS[optimizer](model), X)
    assert found, str(found)
    assert str(found).count("ok ") == 9


MISTAKES = {
    "outgoing kept": (cnn, {"zeroes what reads them", "keeps the function"}),
    "flattened as if channels came last": (
        cnn,
        {
            "draws all of them anew",
            "zeroes what reads them",
            "keeps the function",
            "leaves the others alone",
            "clears their moments",
            "keeps the moments of others",
        },
    ),
    "three times the scale": (mlp, {"draws as the network begins"}),
    "normal of the same deviation": (mlp, {"draws as the network begins"}),
    "one seed": (mlp, {"draws other numbers each time"}),
    "every other one": (mlp, {"draws all of them anew", "wakes them", "clears their moments"}),
    "one unit too many": (mlp, {"leaves the others alone", "keeps the function", "keeps the moments of others"}),
    "a channel of the input": (
        mlp,
        {
            "draws all of them anew",
            "wakes them",
            "leaves the others alone",
            "keeps the function",
            "draws other numbers each time",
        },
    ),
    "moments kept": (mlp, {"clears their moments"}),
    "moments of what reads": (mlp, {"clears their moments"}),
    "all state cleared": (mlp, {"keeps the moments of others"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found(mistake: str) -> None:
    make, expected = MISTAKES[mistake]
    model = make()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    found = check_reset(Reset(mistake), model, adam(model), X)
    assert set(found.wrong) == expected, str(found)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize(
    "norm",
    [nn.Identity, lambda n: nn.BatchNorm1d(n, momentum=0.0), nn.LayerNorm],
    ids=["plain", "batch norm", "layer norm"],
)
def test_our_own_passes(norm: Callable[[int], nn.Module]) -> None:
    def reset(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        keeper = Chain(ReDo(tau=0.0, every=1)).attach(model.train(), optimizer, seed=next(seeds))
        model(X)
        keeper.step()
        keeper.detach()
        model.eval()

    seeds = itertools.count()
    model = mlp(norm)
    found = check_reset(reset, model, adam(model), X)
    assert found, str(found)


def test_draws_of_ones_own_are_compared_with_what_is_stated() -> None:
    class Normal(Reset):
        def draw(self, layer: Any, units: Tensor, optimizer: torch.optim.Optimizer) -> None:
            super().draw(layer, units, optimizer)
            layer.weight[units] = nn.init.kaiming_normal_(torch.empty_like(layer.weight))[units]

    model = mlp()
    assert check_reset(Normal(), model, adam(model), X).wrong == ("draws as the network begins",)
    assert check_reset(Normal(), model, adam(model), X, draw=nn.init.kaiming_normal_)


def test_what_cannot_be_checked_is_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(ValueError, match="Sequential has no units that can be drawn anew without a change"):
        check_reset(Reset(), model, adam(model), X)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Sigmoid(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="units of '2' pass something on where nothing feeds them"):
        check_reset(Reset(), model, adam(model), X)
    with pytest.raises(ValueError, match=r"expected an optimizer of torch\.optim, got str"):
        check_reset(Reset(), mlp(), "adam", X)  # type: ignore[arg-type]

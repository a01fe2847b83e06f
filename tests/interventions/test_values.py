"""Hand-computed values, and what chains and draws are."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pliant.interventions import L2, Chain, Draw, Intervention, LayerNorm, Seen, ShrinkAndPerturb, WeightNormRescale
from pliant.network import Network

SEEN = Seen(step=torch.tensor(0), lr=torch.tensor(0.1), x=None)


def network():
    return Network(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 1)))


PARAMS = {
    "0.weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]]),
    "0.bias": torch.tensor([1.0, -1.0]),
    "1.weight": torch.tensor([2.0, 2.0]),
    "1.bias": torch.tensor([0.0, 1.0]),
    "3.weight": torch.tensor([[1.0, 2.0]]),
    "3.bias": torch.tensor([0.5]),
}


def test_l2_counts_every_weight_and_bias_once():
    plain = 9 + 16 + 1 + 1 + 1 + 4 + 0.25
    assert L2(0.1).penalty(network(), PARAMS, {}, SEEN) == pytest.approx(0.1 * plain)
    assert L2(0.1, normalisers=True).penalty(network(), PARAMS, {}, SEEN) == pytest.approx(
        0.1 * (plain + 4 + 4 + 0 + 1)
    )
    gradient = L2(0.1).penalty_gradient(network(), PARAMS, {}, SEEN)
    assert list(gradient) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    torch.testing.assert_close(gradient["0.weight"].value(), torch.tensor([[0.6, 0.0], [0.0, 0.8]]))


def test_shrink_and_perturb_mixes_in_a_fresh_draw():
    draw = Draw(3, 100)
    fresh = draw.fresh(network())
    method = ShrinkAndPerturb(shrink=0.5, perturb=0.25)
    change = method.on_event(network(), "task_switch", PARAMS, {"m": PARAMS}, {}, draw)
    new = change.params
    for name, w in PARAMS.items():
        torch.testing.assert_close(new[name], 0.5 * w + 0.25 * fresh[name])
    assert new["1.weight"].tolist() == [1.25, 1.25]  # the initial scale of a normaliser is 1
    assert change.moments == {}
    assert change.state == {}


def test_shrink_and_perturb_draws_in_float32_for_every_dtype():
    double = {name: p.double() for name, p in PARAMS.items()}
    method = ShrinkAndPerturb(shrink=0.0, perturb=1.0)
    single = method.on_event(network(), "task_switch", PARAMS, {}, {}, Draw(0, 0)).params
    precise = method.on_event(network(), "task_switch", double, {}, {}, Draw(0, 0)).params
    assert all(torch.equal(precise[name], single[name].double()) for name in PARAMS)


def test_shrink_and_perturb_refuses_another_word_for_moments():
    with pytest.raises(ValueError, match="moments of ShrinkAndPerturb to be 'keep' or 'clear', got 'reset'"):
        ShrinkAndPerturb(0.5, 0.1, moments="reset")


def test_rescaling_restores_each_matrix_and_leaves_vectors():
    method = WeightNormRescale()
    state = method.init(network(), PARAMS)
    assert {name: norm.item() for name, norm in state.items()} == {"0.weight": 5.0, "3.weight": pytest.approx(5**0.5)}
    doubled = {name: 2 * p for name, p in PARAMS.items()}
    change = method.after_step(network(), doubled, {}, state, SEEN)
    new = change.params
    torch.testing.assert_close(new["0.weight"], PARAMS["0.weight"])
    torch.testing.assert_close(new["3.weight"], PARAMS["3.weight"])
    assert set(new) == {"0.weight", "3.weight"}
    assert change.state == {}


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e30])
def test_rescaling_survives_extreme_matrices(size):
    """A matrix of zeros stays one: there is no direction to rescale."""
    method = WeightNormRescale()
    state = method.init(network(), PARAMS)
    params = {**PARAMS, "0.weight": torch.full((2, 2), size)}
    weight = method.after_step(network(), params, {}, state, SEEN).params["0.weight"]
    assert weight.isfinite().all()
    if size >= 1e-18 and size < 1e18:
        assert weight.norm() == pytest.approx(5.0)
    if size == 0:
        assert not weight.any()


def test_a_chain_is_a_tuple_that_prints_as_it_is_written():
    chain = Chain(LayerNorm(), L2(1e-4))
    assert repr(chain) == f"Chain({LayerNorm()!r}, L2(strength=0.0001, normalisers=False))"
    assert eval(repr(chain)) == chain
    assert chain != Chain(L2(1e-4), LayerNorm())
    assert (len(chain), chain[1], hash(chain)) == (2, L2(1e-4), hash(Chain(LayerNorm(), L2(1e-4))))
    for again in (pickle.loads(pickle.dumps(chain)), copy.deepcopy(chain), copy.copy(chain)):
        assert type(again) is Chain
        assert again == chain
    assert repr(Chain()) == "Chain()"
    assert Chain().build(module := nn.Linear(2, 1), torch.ones(1, 2)) is module


@pytest.mark.parametrize("wrong", [L2, 1e-4, [L2(1e-4)], Chain(L2(1e-4)), None])
def test_a_chain_refuses_what_is_no_intervention(wrong):
    with pytest.raises(ValueError, match=r"expected interventions such as L2\(1e-4\), got .*: write Chain"):
        Chain(L2(0.1), wrong)


def test_a_chain_carries_one_state_a_member():
    states = Chain(L2(0.1), WeightNormRescale()).init(network(), PARAMS)
    assert [list(state) for state in states] == [[], ["0.weight", "3.weight"]]


def test_an_intervention_does_nothing_by_default():
    nothing, module = Intervention(), nn.Linear(2, 1)
    assert nothing.build(module, torch.ones(1, 2)) is module
    assert nothing.init(network(), PARAMS) == {}
    assert nothing.penalty(network(), PARAMS, {}, SEEN) is None
    assert nothing.penalty_gradient(network(), PARAMS, {}, SEEN) is None
    assert nothing.after_step(network(), PARAMS, {}, {}, SEEN) is None
    assert nothing.on_event(network(), "task_switch", PARAMS, {}, {}, Draw(0, 0)) is None


def test_draws_are_functions_of_seed_and_step():
    net, before = network(), torch.get_rng_state()
    draws = [Draw(seed, step) for seed in range(5) for step in (0, 1, 2, 500, 2**40)]
    numbers = [torch.rand(4, generator=d.generator()).tolist() for d in draws]
    fresh = [d.fresh(net)["0.weight"].flatten().tolist() for d in draws]
    assert torch.equal(torch.get_rng_state(), before)
    assert numbers == [torch.rand(4, generator=Draw(*d).generator()).tolist() for d in draws]
    assert len({tuple(n) for n in numbers}) == len({tuple(n) for n in fresh}) == len(draws)
    assert not any(torch.equal(Draw(s, 0).fresh(net)["0.weight"], net.fresh(s)["0.weight"]) for s in range(5))

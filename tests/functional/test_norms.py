import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from pliant.functional import norms
from tests.reference import sizes as naive

vectors = npst.arrays(np.float64, st.integers(1, 6), elements=st.floats(-10, 10))
dicts = st.dictionaries(st.sampled_from("abcd"), vectors.map(torch.tensor), min_size=1)


@given(tensors=dicts)
def test_norm_equals_the_naive_transcription(tensors):
    assert norms.norm(tensors).item() == pytest.approx(naive.norm(tensors), rel=1e-12)
    single = {name: tensor.float() for name, tensor in tensors.items()}
    assert norms.norm(single).item() == pytest.approx(naive.norm(single), rel=1e-4)


@given(tensors=dicts, factor=st.sampled_from([-2.0, 0.5, 1e-30, 1e30]))
def test_norm_scales_with_its_tensors_and_ignores_their_order(tensors, factor):
    scaled = {name: factor * tensors[name] for name in reversed(tensors)}
    assert norms.norm(scaled).item() == pytest.approx(abs(factor) * norms.norm(tensors).item(), rel=1e-12)


def test_one_entry_moves_the_norm():
    tensors = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    assert norms.norm(tensors) == 0
    tensors["bias"][1] = -3.0
    assert norms.norm(tensors) == 3


def test_float32_neither_underflows_nor_loses_digits_on_many_entries():
    assert norms.norm({"gradient": torch.full((4,), 1e-30)}).item() == pytest.approx(2e-30)
    many = torch.randn(10_000_000, generator=torch.Generator().manual_seed(0))
    exact = many.double().square().sum().sqrt().item()
    assert norms.norm({"weight": many}).item() == pytest.approx(exact, rel=1e-6)


def test_ratio():
    now, then = (
        {"w": torch.tensor([3.0, 4.0]), "b": torch.ones(1)},
        {"w": torch.tensor([0.0, 2.0]), "b": torch.zeros(1)},
    )
    assert norms.norm_ratio(now, then).item() == pytest.approx(26**0.5 / 2)
    assert norms.norm_ratio(now, now) == 1
    assert math.isnan(norms.norm_ratio({"b": now["b"]}, {"b": then["b"]}).item())
    assert math.isnan(norms.relative_update({"b": now["b"]}, {"b": then["b"]}).item())


def test_relative_update():
    update = {"w": torch.tensor([0.3, 0.4])}
    assert norms.relative_update(update, {"w": torch.tensor([0.0, 5.0])}).item() == pytest.approx(0.1)


def test_population_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    now, then = ({"w": torch.randn(4, 3, 2, generator=generator).double()} for _ in range(2))
    stacked = vmap(norms.norm_ratio)(now, then)
    for i in range(4):
        alone = norms.norm_ratio({"w": now["w"][i]}, {"w": then["w"][i]})
        assert torch.allclose(stacked[i], alone, rtol=1e-12)

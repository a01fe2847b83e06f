import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from pliant.functional.distributions import entropy
from tests.reference import sizes as naive

logits = npst.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-50, 50))


@given(logits=logits)
def test_equals_the_naive_transcription(logits):
    logits = torch.tensor(logits)
    assert entropy(logits).item() == pytest.approx(naive.entropy(logits), rel=1e-9, abs=1e-12)
    assert entropy(logits.float()).item() == pytest.approx(naive.entropy(logits.float()), rel=1e-4, abs=1e-6)


@given(logits=logits, shift=st.floats(-1e3, 1e3), data=st.data())
def test_shift_and_order_do_not_matter(logits, shift, data):
    logits = torch.tensor(logits)
    classes = torch.tensor(data.draw(st.permutations(range(logits.shape[1]))))
    assert entropy(logits[:, classes] + shift).item() == pytest.approx(entropy(logits).item(), rel=1e-6, abs=1e-9)
    assert -1e-12 <= entropy(logits) <= math.log(logits.shape[1]) + 1e-12


def test_hand_computed():
    assert entropy(torch.zeros(3, 10)).item() == pytest.approx(math.log(10))
    assert entropy(torch.tensor([[1e4, 0.0, 0.0]])) == 0
    assert entropy(torch.tensor([[0.0, 0.0, -torch.inf]])).item() == pytest.approx(math.log(2))
    assert entropy(torch.log(torch.tensor([[0.5, 0.25, 0.25]]))).item() == pytest.approx(1.5 * math.log(2))


def test_leading_axes_are_samples():
    several = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(entropy(several), entropy(several.flatten(0, 1)))
    assert torch.allclose(vmap(entropy)(several).mean(), entropy(several))

"""Dropout by counter: a good hash, a pure function, the same alone and in a crowd."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.func import functional_call, grad, vmap

from pliant.nets import Dropout

KEY = [3, 1000]


def drop(x: Tensor, key: Tensor | list[int], p: float = 0.1, salt: int = 0) -> Tensor:
    return functional_call(Dropout(p, salt), {"key": torch.as_tensor(key)}, (x,))


def kept(key: list[int], p: float = 0.1, salt: int = 0, shape: tuple[int, ...] = (600, 600)) -> Tensor:
    return drop(torch.ones(shape), key, p, salt) != 0


def independence(a: Tensor, b: Tensor) -> float:
    """The p-value of the chi-square test that two masks are independent."""
    table = [[(x & y).sum().item() for y in (b, ~b)] for x in (a, ~a)]
    return stats.chi2_contingency(table, correction=False).pvalue


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_keeps_the_stated_share_at_the_stated_scale(p):
    x = drop(torch.ones(1000, 1000), KEY, p)
    assert set(x.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    standard_error = (p * (1 - p) / x.numel()) ** 0.5
    assert abs((x != 0).double().mean().item() - (1 - p)) < 4 * standard_error


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize(
    "other",
    [[4, 1000], [2, 1000], [3, 1001], [1000, 3], [3 + 2**32, 1000], [3, 1000 + 2**32], [-3, 1000], [3, 0]],
    ids=lambda key: f"{key[0]}-{key[1]}",
)
def test_keys_are_decorrelated(p, other):
    mask, another = kept(KEY, p), kept(other, p)
    assert not torch.equal(mask, another)
    assert independence(mask, another) > 1e-3
    upper = torch.ones(mask.shape).triu(1).bool()
    assert independence(mask[upper], another.T[upper]) > 1e-3  # nor the same mask transposed


@pytest.mark.parametrize("salt", [1, 2, 3])
def test_layers_are_decorrelated(salt):
    assert independence(kept(KEY), kept(KEY, salt=salt)) > 1e-3
    assert independence(kept(KEY), kept([KEY[0] ^ 2 * salt, KEY[1]], salt=salt)) > 1e-3  # a seed does not undo a salt


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_positions_are_decorrelated(p):
    mask = kept(KEY, p)
    for rows, columns in ((0, 1), (1, 0), (1, 1), (0, 16), (16, 0), (128, 0), (0, 256)):
        assert independence(mask[rows:, columns:], mask[: 600 - rows, : 600 - columns]) > 1e-3
    upper = torch.ones(mask.shape).triu(1).bool()
    assert independence(mask[upper], mask.T[upper]) > 1e-3


@pytest.mark.parametrize("dim", [0, 1])
def test_counts_are_binomial(dim):
    """Goodness of fit of the number kept in blocks of 25, and two samples against PyTorch's own generator."""
    mask = kept(KEY, p=0.3)
    counts = (mask if dim else mask.T).reshape(-1, 25).sum(1)
    seen = torch.bincount(counts.clamp(11, 23) - 11, minlength=13).numpy()
    cumulative = stats.binom.cdf(np.arange(11, 23), 25, 0.7)
    expected = len(counts) * np.diff(np.concatenate([[0], cumulative, [1]]))
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    other = torch.rand(len(counts), 25, generator=torch.Generator().manual_seed(0)).ge(0.3).sum(1)
    table = [seen, torch.bincount(other.clamp(11, 23) - 11, minlength=13).numpy()]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_each_position_is_fair_over_seeds_and_steps():
    keys = torch.cartesian_prod(torch.arange(100), torch.arange(200))
    masks = vmap(lambda key: drop(torch.ones(4, 16), key))(keys).ne(0).double().flatten(1)
    z = (masks.mean(0) - 0.9) / (0.09 / len(keys)) ** 0.5
    assert stats.chi2.sf(z.square().sum().item(), z.numel()) > 1e-3
    correlation = torch.corrcoef(masks.T)[*torch.triu_indices(64, 64, 1)] * len(keys) ** 0.5
    assert correlation.abs().max() < 5
    assert correlation.std().item() == pytest.approx(1, abs=0.1)


def test_population_equals_a_loop():
    keys = torch.tensor([[0, 5], [1, 5], [2**40, 5]])
    x = torch.randn(3, 2, 7, 8, generator=torch.Generator().manual_seed(0))
    together = vmap(drop)(x, keys)
    assert torch.equal(together, torch.stack([drop(a, key) for a, key in zip(x, keys, strict=True)]))
    shared = vmap(drop, in_dims=(None, 0))(x[0], keys)
    assert torch.equal(shared, torch.stack([drop(x[0], key) for key in keys]))


def test_gradient_is_the_mask():
    x = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = kept(KEY, shape=(20, 30)).double() / 0.9
    torch.testing.assert_close(grad(lambda x: drop(x, KEY).sum())(x), mask)
    torch.testing.assert_close(drop(x, KEY), x * mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_mask_is_the_same_in_every_dtype(dtype):
    x = drop(torch.ones(100, 100, dtype=dtype), KEY)
    assert x.dtype is dtype
    assert torch.equal(x != 0, kept(KEY, shape=(100, 100)))


@pytest.mark.parametrize("shape", [(5,), (5, 6), (2, 3, 4, 5), (0, 3), (3, 0)])
def test_any_shape(shape):
    assert drop(torch.ones(shape), KEY).shape == shape


def test_nothing_is_drawn_and_nothing_drops_without_a_key():
    before = torch.random.get_rng_state()
    x = torch.ones(50)
    assert Dropout(0.5)(x) is x
    assert Dropout(0.5).train()(x) is x
    assert drop(x, KEY, p=0) is x
    drop(x, KEY)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not Dropout(0.5).state_dict()


def test_masks_stay_what_they_were():
    """A stored run can be resumed only where later versions draw the same masks."""
    assert drop(torch.ones(12), [7, 0], p=0.5, salt=1).tolist() == [0, 0, 0, 0, 2, 2, 0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("p", [-0.1, 1.0, 2, float("nan")])
def test_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"expected a dropout probability p in \[0, 1\)"):
        Dropout(p)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_masks_are_the_same():
    keys, x = torch.tensor([[1, 2], [2**40, 7]]), torch.ones(2, 8, 50, 64)
    assert torch.equal(torch.compile(vmap(drop))(x, keys), vmap(drop)(x, keys))

"""Codes of units: planted owners are found again, whatever the shape, and nobody's entries stay nobody's."""

import pytest
import torch

from pliant import codes
from pliant.codes import alone, compact, owned, three_codes


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(owners, size, both=None):
    """With three codes: of entries that move one unit each, or two of them."""
    slopes, others = draws(*owners.shape), draws(*owners.shape, seed=1)
    found = []
    for code in three_codes(size):
        one = torch.where(owners < 0, 0.0, slopes * code[owners])
        found.append({"weight": one if both is None else one + torch.where(both < 0, 0.0, others * code[both])})
    return found


@pytest.mark.parametrize(
    "owners",
    [
        torch.arange(7)[:, None].expand(7, 5),
        torch.arange(7).repeat(3).expand(5, 21),
        torch.randint(-1, 7, (400, 90), generator=torch.Generator().manual_seed(2)),
        torch.randint(-1, 7, (90, 400), generator=torch.Generator().manual_seed(3)).T,
        torch.tensor([3, -1, 0]),
        torch.tensor(4),
    ],
    ids=["rows", "columns", "any", "transposed", "vector", "number"],
)
@pytest.mark.parametrize("chunk", [codes.CHUNK, 8])
def test_owners_are_found(monkeypatch, owners, chunk):
    monkeypatch.setattr(codes, "CHUNK", chunk)
    found = owned(lambda: gradients(owners, 7), 7)["weight"]
    assert torch.equal(found.expand(owners.shape), owners)


def test_entries_of_two_units_have_no_owner():
    owners = torch.arange(6)[:, None].expand(6, 50)
    both = torch.where(torch.arange(50) % 2 == 0, (owners + 1) % 6, -1)
    found = owned(lambda: gradients(owners, 6, both), 6)["weight"]
    assert torch.equal(found, torch.where(both < 0, owners, -1))


def test_gradients_that_cancel_by_chance_are_asked_for_again():
    owners, calls = torch.arange(6)[:, None].expand(6, 50), []

    def unlucky():
        calls.append(1)
        found = gradients(owners, 6)
        if len(calls) == 1:
            found[1]["weight"][2, 3] *= 1.01
        return found

    assert torch.equal(owned(unlucky, 6)["weight"].expand(6, 50), owners)
    assert len(calls) == 2


def test_most_entries_have_to_be_alone():
    owners = torch.arange(6)[:, None].expand(6, 50)
    for share, right in ((0.4, True), (0.6, False)):
        mixed = torch.where(torch.arange(50) < share * 50, (owners + 1) % 6, -1)
        one, two, _ = (g["weight"] for g in gradients(owners, 6, mixed))
        assert alone(one, two, owners[:, :1]) is right


def test_one_index_is_kept_where_codes_stay_the_same():
    assert compact(torch.arange(3)[None, :, None].expand(2, 3, 4)).shape == (1, 3, 1)
    assert compact(torch.tensor([[0, 1], [1, 0]])).shape == (2, 2)
    assert compact(torch.full((4, 4), -1)).shape == (1, 1)

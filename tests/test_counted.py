"""What a monitor counts: what trains, the tokens that are there, the experts that have some; the rest is named."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant import Monitor
from pliant.diagnostics import (
    DeadUnits,
    EmpiricalNTK,
    FeatureRanks,
    GradientAlignment,
    GradientCovariance,
    GradientDormantUnits,
    GradientNorm,
    GradientSaturatedUnits,
    HessianTrace,
    Observation,
    PredictiveEntropy,
    RelativeUpdate,
    Sharpness,
)
from pliant.monitor.subject import Subject
from pliant.network import Network

KERNELS = (EmpiricalNTK(), GradientCovariance(), Sharpness(), HessianTrace())


class Lora(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(0.1 * torch.randn(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


def lora():
    torch.manual_seed(0)
    return nn.Sequential(Lora(nn.Linear(6, 16)), nn.ReLU(), Lora(nn.Linear(16, 3)))


X, Y = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 3


@pytest.mark.filterwarnings("ignore:.*the numbers have no fresh reference")  # of layers that torch does not draw
def test_frozen_parameters_have_no_part_in_gradients_and_updates():
    model = lora()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    monitor = Monitor(model, (X, Y), loss=F.cross_entropy, every=1, diagnostics=(GradientNorm(), RelativeUpdate()))
    monitor(0)
    before = torch.cat([p.detach().flatten() for p in trained])
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    row, after = monitor(1), torch.cat([p.detach().flatten() for p in trained])
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    norm = nn.utils.clip_grad_norm_(trained, 1e9).item()
    assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert row["relative_update"] == pytest.approx(((after - before).norm() / after.norm()).item(), rel=1e-4)
    assert not any("base" in column for column in row)


@pytest.mark.parametrize("diagnostic", KERNELS, ids=lambda d: type(d).__name__)
def test_kernels_and_curvature_are_those_of_a_network_that_is_the_trained_part_alone(diagnostic):
    """The second layer of a network, the first one frozen, is a network on what that layer returns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    model[0].requires_grad_(False)
    x = X[:8].double()
    whole = Network(model, example=x)
    seen = Observation(whole.params(), network=whole, x=x, y=Y[:8], loss=F.cross_entropy)
    part = Network(model[2], example=model[:2](x))
    alone = Observation(part.params(), network=part, x=model[:2](x), y=Y[:8], loss=F.cross_entropy)
    if isinstance(diagnostic, (Sharpness, HessianTrace)):
        diagnostic = type(diagnostic)(of="gauss_newton")
    found, expected = diagnostic.measure(seen), diagnostic.measure(alone)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9)


def test_what_the_optimizer_does_not_hold_does_not_count():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model[2].parameters(), 0.1)
    settings = {"loss": F.cross_entropy, "every": 1, "diagnostics": (GradientNorm(),)}
    monitor = Monitor(model, (X, Y), optimizer=optimizer, **settings)
    assert {name for name in monitor(0) if not name.startswith("fresh/")} == {
        "step",
        "learning_rate",
        "gradient_norm",
        "gradient_norm/2.weight",
        "gradient_norm/2.bias",
    }
    model[2].bias.requires_grad_(False)  # from now on
    assert "gradient_norm/2.bias" not in monitor(1)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    assert "gradient_norm/0.bias" in monitor(2)
    assert "gradient_norm/0.bias" in Monitor(model, (X, Y), **settings)(0)


def test_layers_of_which_some_are_frozen_are_compared_by_their_gradients_where_they_have_some():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    diagnostics = (GradientDormantUnits(0.1), GradientAlignment())
    row = Monitor(model, (X, Y), loss=F.cross_entropy, diagnostics=diagnostics)(0)
    assert {c.partition("/")[2] for c in row if "/" in c and not c.startswith("fresh/")} == {"2"}
    model[2].requires_grad_(False)
    with pytest.raises(ValueError, match="expected hidden layers that are trained, got frozen ones alone"):
        Monitor(model, (X, Y), loss=F.cross_entropy, diagnostics=(GradientAlignment(),))


class Experts(nn.Module):
    """Each sample goes to one of three experts, by a gate."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x):
        h = torch.relu(self.first(x))
        weights = self.gate(h).softmax(-1)
        out = h.clone()
        for i, expert in enumerate(self.experts):
            mine = (weights.argmax(-1) == i).nonzero()[:, 0]
            out = out.index_add(0, mine, expert(h[mine]) * weights[mine, i : i + 1])
        return self.last(out)


def test_an_expert_without_tokens_is_named_and_not_counted():
    torch.manual_seed(0)
    model = Experts()
    with torch.no_grad():
        model.gate.weight.zero_()
        model.gate.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))  # all of them go to the first
        model.experts[0][0].bias[:4] = -100
    settings = {"loss": F.cross_entropy, "tier": "business"}
    with pytest.warns(UserWarning, match=r"no sample of this batch reaches 'experts.1.1', 'experts.2.1': not measured"):
        row = Monitor(model, (X, Y), **settings)(0)
    assert row["dead_count"] == 4
    assert row["dead"] == pytest.approx(4 / (8 + 16))
    assert row["dead/experts.0.1"] == 0.25
    assert "dead/experts.1.1" not in row
    assert all(value == value for name, value in row.items() if not name.endswith("gate.weight"))  # which is 0
    torch.manual_seed(2)
    model.gate.reset_parameters()
    nn.init.zeros_(model.gate.bias)  # now all three get some
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = Monitor(model, (X, Y), **settings)(0)
    assert {name for name in every if "/" not in name} == {name for name in row if "/" not in name}


class Embedded(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.embed, self.widen, self.head = nn.Embedding(20, 6, sparse=sparse), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(torch.relu(self.widen(self.embed(ids).mean(1))))


def test_a_sparse_embedding_has_the_gradient_of_a_dense_one():
    torch.manual_seed(0)
    sparse, ids = Embedded(sparse=True), torch.arange(64).reshape(32, 2) % 20
    dense = Embedded(sparse=False)
    dense.load_state_dict(sparse.state_dict())
    rows = [Monitor(model, (ids, Y), loss=F.cross_entropy)(0) for model in (sparse, dense)]
    assert rows[0] == pytest.approx(rows[1], nan_ok=True)
    assert rows[0]["gradient_norm/embed.weight"] > 0


class Tagger(nn.Module):
    """A class for every token; tokens attend to nothing."""

    def __init__(self):
        super().__init__()
        self.embed, self.widen, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(torch.relu(self.widen(self.embed(ids))))


def loss_of_tokens(output, y):
    return F.cross_entropy(output.flatten(0, 1), y.flatten(), ignore_index=-1)


def test_padding_has_no_part_in_any_number():
    """Tokens beside padding read what the same tokens read alone."""
    torch.manual_seed(0)
    model, generator = Tagger(), torch.Generator().manual_seed(0)
    ids = torch.randint(1, 9, (24, 4), generator=generator)
    y = torch.randint(3, (24, 4), generator=generator)
    padded, masked = (
        torch.cat([ids, torch.zeros(24, 3, dtype=torch.long)], 1),
        torch.cat([y, torch.full((24, 3), -1)], 1),
    )
    settings = {"loss": loss_of_tokens, "tier": "full"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ranks of few samples
        plain = Monitor(model, (ids, y), **settings)(0)
        found = Monitor(model, (padded, masked), mask=padded != 0, **settings)(0)
        without = Monitor(model, (padded, masked), **settings)(0)
    drawn = {name for name in plain if name.split("/")[0].startswith(("hessian", "sharpness"))}  # noise a token
    drawn |= {name for name in plain if name.startswith("fresh/")}
    for name in plain.keys() - drawn:
        assert found[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-6, nan_ok=True), name
    for name in ("active", "feature_norm", "entropy", "preactivation_mean", "alignment"):
        assert without[name] != pytest.approx(plain[name], rel=1e-3), name


@pytest.mark.parametrize("mask", [torch.ones(24), torch.ones(24, 4), torch.ones(24, 5, dtype=torch.bool)])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match=r"expected a boolean mask of shape \(batch, tokens\)"):
        Monitor(Tagger(), torch.ones(24, 4, dtype=torch.long), mask=mask)
    with pytest.raises(ValueError, match="True at some token"):
        Monitor(Tagger(), torch.ones(24, 4, dtype=torch.long), mask=torch.zeros(24, 4, dtype=torch.bool))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_monitor_of_half_precision_reads_as_one_of_float32(half):
    """Gradients, too: those of float16 underflow on many samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).to(half)
    with torch.no_grad():
        model[2].bias[:8] = -30
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4096, 6, generator=generator).to(half), torch.arange(4096) % 3
    diagnostics = (
        DeadUnits(), FeatureRanks(), GradientNorm(), GradientSaturatedUnits(), GradientAlignment(), PredictiveEntropy(),
    )  # fmt: skip
    settings = {"loss": F.cross_entropy, "diagnostics": diagnostics}
    now = Monitor(model, (x, y), **settings)(0)
    wide = Monitor(copy.deepcopy(model).float(), (x.float(), y), **settings)(0)
    assert now["dead_count"] == wide["dead_count"] == 8
    for name, value in wide.items():
        if name.startswith("fresh/"):  # of other draws
            continue
        assert now[name] == pytest.approx(value, rel=2e-3, abs=1e-3), name


def test_a_nonlinearity_that_is_not_seen_is_named_at_the_start():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gate, self.last = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(F.glu(self.gate(torch.relu(self.first(x)))))

    with pytest.warns(UserWarning, match="at the start: no nonlinearity is seen between 'gate' and the next layer"):
        Monitor(Gated(), X)


def test_gradients_of_a_subject_are_those_of_what_trains():
    model = lora()
    subject = Subject(model, (X, Y), F.cross_entropy, purify=False)
    with subject.undisturbed():
        seen = subject.observe(frozenset({"gradients"}), {})
    assert list(seen.gradients) == [name for name, p in model.named_parameters() if p.requires_grad]

"""The unit map of odd structures: what it calls exact is so, in train mode, whichever half of the units is silent."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from pliant import L2, Chain, ReDo, disentangle, generic
from pliant.diagnostics import DeadUnits, Observation
from pliant.diagnostics._nudge import sensitivities
from pliant.functional.norms import norm
from pliant.interventions import L2Init
from pliant.interventions.base import Seen
from pliant.monitor import Monitor
from pliant.network import Network
from pliant.optim import SGD
from pliant.poking import Poked, find_units
from pliant.population import Member, Population
from pliant.sites import Inputs, arguments
from tests.test_units import BIAS, redrawn


class SetAttention(nn.Module):
    """Queries, keys and values without biases, so that units meet each other in products."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(5, 8), nn.Linear(4, 3)
        self.query, self.key, self.value = (nn.Linear(8, 4, bias=False) for _ in range(3))

    def forward(self, x):
        h = F.relu(self.hidden(x))
        weights = (self.query(h) @ self.key(h).mT / 2).softmax(-1)
        return self.output((weights @ self.value(h)).mean(1))


class StateSpace(nn.Module):
    """A linear recurrence whose gates and inputs are all made of the same units, without biases."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 6), nn.Linear(5, 2)
        self.keep, self.write, self.read = (nn.Linear(6, 5, bias=False) for _ in range(3))

    def forward(self, x):
        h = F.relu(self.hidden(x))
        keep, write, read = torch.exp(-self.keep(h).square()), self.write(h), self.read(h)
        state, out = torch.zeros_like(write[:, 0]), 0.0
        for t in range(x.shape[1]):
            state = keep[:, t] * state + write[:, t]
            out = out + state * read[:, t]
        return self.output(out)


class Autoencoder(nn.Module):
    """Variational: only in training, something reads the units for the variance."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 8), nn.Linear(3, 6)
        self.mean, self.log_variance = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = F.relu(self.encode(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean)


class Auxiliary(nn.Module):
    """A second head, in training only, and dropped out units."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output, self.auxiliary = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        h = F.dropout(F.relu(self.hidden(x)), 0.5, self.training)
        return (self.output(h), self.auxiliary(h)) if self.training else self.output(h)


class Experts(nn.Module):
    """As one product, as bmm or einsum."""

    def __init__(self, einsum):
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(3, 5, 7)), nn.Parameter(torch.randn(3, 1, 7))
        self.second, self.einsum = nn.Parameter(torch.randn(3, 7, 4)), einsum

    def forward(self, x):
        if self.einsum:
            h = F.relu(torch.einsum("bi,eio->ebo", x, self.first) + self.bias)
            return torch.einsum("ebo,eok->bk", h, self.second)
        return torch.bmm(F.relu(torch.bmm(x.expand(3, -1, -1), self.first) + self.bias), self.second).mean(0)


class Routed(nn.Module):
    """Every row goes through one expert: which, the input decides."""

    def __init__(self):
        super().__init__()
        self.inner, self.gate, self.output = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(3))

    def forward(self, x):
        h = torch.relu(self.inner(x))
        share = self.gate(h).softmax(-1)
        chosen, out = share.argmax(-1), h.clone()
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(h[rows]) * share[rows, i : i + 1])
        return self.output(out)


class Graph(nn.Module):
    """Nodes that read their neighbours."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x, edges):
        h = F.relu(self.first(x))
        return self.second(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


class Mapped(nn.Module):
    """torch.vmap inside a forward pass: over examples, or over the members of an ensemble."""

    def __init__(self, members=False):
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(3, 7, 5)), nn.Parameter(torch.randn(3, 7))
        self.second, self.members = nn.Parameter(torch.randn(3, 2, 7)), members

    def forward(self, x):
        def one(first, bias, second, x):
            return F.linear(F.relu(F.linear(x, first, bias)), second)

        if self.members:
            return torch.vmap(one, (0, 0, 0, None))(self.first, self.bias, self.second, x).mean(0)
        return torch.vmap(lambda x: one(self.first[0], self.bias[0], self.second[0], x))(x).mean(1)


class Spectral(nn.Module):
    """Channels mixed by complex numbers in the frequency domain, beside real ones."""

    def __init__(self):
        super().__init__()
        self.first, self.skip, self.output = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 4, 1), nn.Linear(4, 2)
        self.filter = nn.Parameter(torch.randn(6, 4, 3, dtype=torch.complex64))

    def forward(self, x):
        h = F.relu(self.first(x))
        mixed = torch.einsum("bix,iox->box", torch.fft.rfft(h)[..., :3], self.filter)
        return self.output(F.gelu(torch.fft.irfft(mixed, n=x.shape[-1]) + self.skip(h)).mean(-1))


def test_complex_parameters():
    network = Network(Spectral(), example=torch.randn(3, 2, 8))
    first, second = network.units
    assert (first.name, first.size, first.exact) == ("relu", 6, False)  # the filter reads them, too
    assert (second.name, second.size, second.exact) == ("gelu", 4, True)
    params, x = network.params(), torch.randn(3, 2, 8)
    for strength, (penalty,) in ((0.5, [L2(0.5)]), (2.0, [L2Init(2.0)])):
        start = {name: torch.zeros_like(p) for name, p in params.items()}
        squares = sum(p.abs().double().square().sum() for p in params.values())
        found = penalty.penalty(network, params, start, Seen(torch.tensor(0), torch.tensor(0.1), x))
        assert float(found) == pytest.approx(strength * float(squares), rel=1e-5)
    assert float(norm(params)) == pytest.approx(float(squares) ** 0.5, rel=1e-5)


class SqueezeExcite(nn.Module):
    """Channels times gates that are made of them: two sites of which one entry reads the product."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.output = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 2)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        h = F.relu(self.first(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3))))))
        return self.output(F.relu(self.last(h * gate[:, :, None, None])).mean((2, 3)))


class Points(nn.Module):
    """The largest of several positions, and its index."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(3, 8), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.output(F.relu(self.second(F.relu(self.first(x)).max(1)[0])))


class Actions(nn.Module):
    """Whole numbers out of it: alone, or beside others."""

    def __init__(self, units=6, alone=True):
        super().__init__()
        self.hidden, self.output, self.alone = nn.Linear(4, units), nn.Linear(units, 3), alone

    def forward(self, x):
        logits = self.output(F.relu(self.hidden(x)))
        return logits.argmax(-1) if self.alone else (logits, logits.argmax(-1))


class Coarse(nn.Module):
    """A normaliser written out in single precision, as language models have it, before a gated perceptron."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.gate, self.value, self.output = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        y = x.to(torch.float32)
        y = (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.scale
        return x + self.output(F.relu(self.gate(y)) * self.value(y))


def draws(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def encoder(**options):
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 5, 7]])
AS_MANY = torch.stack([torch.arange(30) % 4, torch.arange(30) % 5])  # as many edges as there are nodes
STRUCTURES = {  # module, inputs, sizes of the units that can be drawn anew
    "attention without biases": (SetAttention, draws(8, 6, 5), [8]),
    "state space": (StateSpace, draws(8, 4, 4), [6]),
    "variational": (Autoencoder, draws(8, 6), [8]),
    "auxiliary head": (Auxiliary, draws(8, 4), [6]),
    "bmm experts": (lambda: Experts(False), draws(6, 5), [7]),
    "einsum experts": (lambda: Experts(True), draws(6, 5), [7]),
    "routed": (Routed, draws(60, 4), [5, 5, 5]),
    "graph": (Graph, Inputs((draws(10, 5), EDGES), {}), [7]),
    "graph of as many edges as nodes": (Graph, Inputs((draws(30, 5), AS_MANY), {}), [7]),
    "vmap over examples": (Mapped, draws(6, 4, 5), [7]),
    "vmap over members": (lambda: Mapped(members=True), draws(6, 5), [7]),
    "squeeze and excite": (SqueezeExcite, draws(4, 3, 8, 8), [8, 4, 6]),
    "maximum": (Points, draws(6, 9, 3), [8, 4]),
    "actions": (Actions, draws(6, 4), [6]),
    "actions beside values": (lambda: Actions(alone=False), draws(6, 4), [6]),
    "one unit": (lambda: Actions(units=1, alone=False), draws(6, 4), [1]),
    "single precision inside": (Coarse, draws(6, 4, 6), [9]),
    "encoder": (lambda: encoder(batch_first=True), draws(4, 5, 8), [12, 12]),
    "encoder, normalised first": (lambda: encoder(norm_first=True), draws(5, 4, 8), [12, 12]),
    "in place": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Dropout2d(0.5, inplace=True),
                 nn.Flatten(), nn.Linear(96, 2)), draws(4, 3, 6, 6), [6]),
}  # fmt: skip
every_structure = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)


def prepared(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make().double()
    return module, {name: p.detach().clone() for name, p in module.named_parameters()}


def trained(module, params, x):
    """The outputs in train mode, the random draws being the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = functional_call(module.train(), params, *arguments(x))
    return found if isinstance(found, tuple) else (found,)


@every_structure
@pytest.mark.parametrize("other", [False, True])
def test_half_of_the_units_drawn_anew_changes_nothing(structure, other):
    make, x, sizes = structure
    module, params = prepared(make)
    found = [units for units in find_units(module, x) if units.exact]
    assert [units.size for units in found if "sigmoid" not in units.name] == sizes
    fresh = {name: 3 * p + 2.0 for name, p in params.items()}
    for units in found:
        half = torch.randperm(units.size, generator=torch.Generator().manual_seed(4)) * 2 < units.size
        dead = ~half if other else half
        old = dict(params)
        for name, entries in units.incoming.items():
            if "bias" in name:
                old[name] = torch.where(entries.mask(dead), BIAS, params[name])
        new = redrawn(units, old, dead, fresh)
        for before, after in zip(trained(module, old, x), trained(module, new, x), strict=True):
            torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_what_reads_units_in_training_only_is_in_the_map_of_a_module_in_either_mode():
    for module in (Autoencoder(), Autoencoder().eval()):
        (units,) = find_units(module, torch.ones(3, 6))
        assert set(units.outgoing) == {"mean.weight", "log_variance.weight"}
        assert module.training is not any(not part.training for part in module.modules())


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / (w.square().mean((1, 2, 3), keepdim=True) + 1e-6).sqrt(), self.bias, padding=1)


class ResponseNorm(nn.Module):
    """Global response normalisation: each unit over the mean size of all."""

    def forward(self, x):
        size = x.norm(dim=1, keepdim=True)
        return x * (size / (size.mean(-1, keepdim=True) + 1e-6))


def weight_normed(*sizes):
    return nn.utils.parametrizations.weight_norm(nn.Linear(*sizes))


@pytest.mark.parametrize(
    ("make", "x", "read"),
    [
        (lambda: nn.Sequential(Standardised(3, 6, 3), nn.ReLU(), Standardised(6, 4, 3)), draws(4, 3, 6, 6), set()),
        (lambda: nn.Sequential(weight_normed(5, 7), nn.ReLU(), weight_normed(7, 3)), draws(4, 5), set()),
        (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), ResponseNorm(), nn.Linear(7, 3)), draws(4, 6, 5),
         set()),
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.LocalResponseNorm(3), nn.Conv2d(6, 4, 3)),
         draws(4, 3, 8, 8), {"3.weight"}),
    ],
    ids=["weight standardisation", "weight norm", "response norm", "local response norm"],
)  # fmt: skip
def test_units_that_cannot_be_taken_out_are_not_exact(make, x, read):
    (units,) = find_units(make(), x)
    assert not units.exact
    assert set(units.outgoing) == read


def test_a_hard_choice_made_of_units_is_something_that_they_move():
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.codes, self.output = nn.Linear(4, 6), nn.Parameter(torch.randn(5, 6)), nn.Linear(6, 2)

        def forward(self, x):
            h = F.relu(self.hidden(x))
            return self.output(self.codes[torch.cdist(h, self.codes).argmin(-1)])

    (units,) = find_units(Hard(), draws(6, 4))
    assert not units.exact


def test_resets_monitor_and_causes_see_what_is_mapped_inside_a_forward_pass():
    module = Mapped().float()
    with torch.no_grad():
        module.bias[0, :3] = BIAS
    x, optimizer = draws(16, 4, 5).float(), torch.optim.SGD(module.parameters(), lr=0.0)
    assert Monitor(module, probe=x, diagnostics=[DeadUnits()], every=1, fresh=Mapped)(0)["dead"] == pytest.approx(3 / 7)
    keeper = Chain(ReDo(tau=0.0, every=1)).attach(module, optimizer, fresh=Mapped)
    before = module(x)
    before.sum().backward()
    optimizer.step()
    keeper.step()
    assert torch.equal(module(x), before)
    assert (module.second[0, :, :3] == 0).all()
    assert (module.bias[0, :3] != BIAS).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vmap has no rule for a module of its own, and so few samples
        causes = disentangle(module, fresh=Mapped, inputs=x, optimizer=optimizer, targets=2, steps=2)
    assert "fresh networks did not learn either" in str(causes)  # in 2 steps
    assert {"norm growth", "output layer"} == {repair.name for repair in causes.repairs}


class GatedConvolution(nn.Module):
    """Channels last: the gate is made by a layer before a convolution that acts beside it."""

    def __init__(self):
        super().__init__()
        self.first, self.depth = nn.Linear(6, 12), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.second, self.output = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        gate, value = self.first(x).chunk(2, -1)
        value = self.depth(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.output(self.second(F.relu(gate) * value).mean((1, 2)))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.output = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)

    def forward(self, x):
        return self.output(F.relu(self.first(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.bias, self.second = (nn.Parameter(torch.randn(*n)) for n in ((6, 4), (6, 1), (3, 6)))
        self.output = nn.Linear(3, 2)

    def forward(self, x):
        h = F.relu(torch.einsum("oi,bit->bot", self.first, x) + self.bias)
        return self.output(torch.einsum("ko,bot->bk", self.second, h))


@pytest.mark.filterwarnings("ignore:at the start. no nonlinearity is seen between 'second'")
@pytest.mark.parametrize(
    ("make", "x", "axis"),
    [(GatedConvolution, draws(4, 5, 5, 6), 3), (ChannelsLast, draws(4, 3, 8, 8), 3), (Einsum, draws(5, 4, 7), 1)],
)
def test_units_run_along_one_axis_everywhere(make, x, axis):
    """In the unit map, in a trace, in the Monitor, under vmap and in what differentiates by activations."""
    module, params = prepared(make)
    (units,) = find_units(module, x)
    ((site, found),) = units.sites
    assert found == axis
    assert units.size == 6
    dead = torch.tensor([True, True, False, True, False, True])
    for name, entries in units.incoming.items():
        if "bias" in name:
            params[name] = torch.where(entries.mask(dead), BIAS, params[name])
    module.load_state_dict(params)
    network = Network(module)
    sites = network.trace(params, x).sites[site]
    assert (sites.post == 0).all(0).tolist() == dead.tolist()
    row = Monitor(module, probe=x, diagnostics=[DeadUnits()], every=1, fresh=make)(0)
    assert row["dead"] == pytest.approx(4 / 6)
    y = torch.zeros(len(x), dtype=torch.int64)
    seen = Observation(params, network=network, x=x, y=y, loss=F.cross_entropy)
    torch.testing.assert_close(sensitivities(seen)[site].post.sort(0).values, sites.post.sort(0).values)
    population = Population(network, F.cross_entropy, [Member(0, SGD(lr=0.1)), Member(1, SGD(lr=0.1))], dtype=x.dtype)
    both = {name: torch.stack([p, p]) for name, p in params.items()}
    shown = population.trace(population.init(both), torch.stack([x, x])).sites[site]
    torch.testing.assert_close(shown.post[1], sites.post)


def test_the_number_of_passes_does_not_grow_with_depth(monkeypatch):
    passes = []
    called = Poked.called
    monkeypatch.setattr(Poked, "called", lambda *args: passes.append(1) or called(*args))

    def count(layers):
        passes.clear()
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(layers)]
        assert len(find_units(nn.Sequential(*blocks, nn.Linear(4, 1)), draws(4, 4))) == layers
        return len(passes)

    assert count(3) == count(12)


@pytest.mark.parametrize("inplace", [False, True])
def test_every_layer_is_asked_about_its_own_site_alone(inplace):
    """Writing in place would lead gradients, all zeros, on through the layers before."""
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace)) for _ in range(3)]
    poked = Poked(nn.Sequential(*layers, nn.Linear(4, 1)), draws(4, 4))
    for place, site in enumerate(poked.hidden):
        assert set(poked.gradient(poked.cut.pieces[site].sum(), poked.params)) == {
            f"{place}.0.weight",
            f"{place}.0.bias",
        }


class Excited(nn.Module):
    """Squeeze and excitation: gates made of the units that they multiply."""

    def __init__(self):
        super().__init__()
        self.layer, self.squeeze, self.excite = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        h = F.relu(self.layer(x))
        return x + self.last(h * self.excite(F.relu(self.squeeze(h))).sigmoid())


def test_where_units_meet_in_products_passes_grow_by_one_a_group(monkeypatch):
    passes = []
    called = Poked.called
    monkeypatch.setattr(Poked, "called", lambda *args: passes.append(1) or called(*args))

    def count(blocks):
        passes.clear()
        groups = find_units(nn.Sequential(*(Excited() for _ in range(blocks)), nn.Linear(4, 1)), draws(4, 4))
        assert [units.size for units in groups] == [6, 3, 6] * blocks
        assert [units.exact for units in groups] == [True, True, True] * blocks
        return len(passes)

    assert count(6) - count(2) == 3 * 4


def test_one_or_two_examples_will_do_unless_they_depend_on_each_other():
    mixed = Inputs((draws(30, 5), AS_MANY), {})
    assert Poked(Graph(), mixed).x.args[0].shape == (30, 5)
    assert Poked(SetAttention(), draws(8, 6, 5)).x.shape == (1, 6, 5)
    assert Poked(
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)), draws(8, 3)
    ).x.shape == (
        2,
        3,
    )
    assert Poked(Routed(), draws(60, 4)).x.shape == (60, 4)


def test_what_takes_long_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(generic, "PATIENCE", -1.0)
    find_units(Actions(), draws(6, 4))
    assert capsys.readouterr().err == "pliant: finding the units of Actions, once\n"


class LastStage(nn.Module):
    """Channels last, a gate of half of a layer, on an image so small that a kernel's tap feeds one row alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.both, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 10), nn.Linear(5, 2)

    def forward(self, x):
        gate, value = self.both(self.conv(x).permute(0, 2, 3, 1)).chunk(2, -1)
        return self.head((F.silu(gate) * value).mean((1, 2)))


class Words(nn.Module):
    """Units along the second of three axes; each word occurs once, so its embedding feeds one place alone."""

    def __init__(self):
        super().__init__()
        self.words, self.both, self.head = nn.Embedding(9, 6), nn.Linear(6, 10), nn.Linear(5, 2)

    def forward(self, x):
        gate, value = self.both(self.words(x)).mT.chunk(2, 1)
        return self.head((F.silu(gate) * value).mean(-1))


@pytest.mark.filterwarnings("ignore:at the start. no nonlinearity is seen between 'second'")
@pytest.mark.parametrize(
    ("make", "x", "axis"),
    [(LastStage, torch.ones(2, 3, 2, 2), 3), (Words, torch.tensor([[3, 1, 4], [0, 5, 2]]), 1)],
)
def test_places_that_few_entries_feed_alone_are_no_units(make, x, axis):
    (units,) = find_units(make(), x)
    assert units.sites == (("silu", axis),)
    assert (units.size, units.exact) == (5, True)
    rows = torch.tensor([0, 1, 2, 3, 4, -1, -1, -1, -1, -1])
    assert torch.equal(units.incoming["both.weight"].codes, rows[:, None].expand(10, 6))

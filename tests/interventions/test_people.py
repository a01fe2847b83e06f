"""Every intervention on networks of the kinds that people have: it works, or says in one line why it does not."""

import copy
import re
import traceback
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import pliant
from pliant.interventions import Chain, Parseval, Reset, SpectralNorm, WeightClipping, WeightNorm, registered
from pliant.interventions.contrib import FIRE, CChain
from tests.interventions.examples import EXAMPLES
from tests.interventions.people import KINDS, LoRA, TiedLanguageModel

ONE_EACH = {type(example.intervention): example for example in reversed(EXAMPLES.values())}
STRONGER = {WeightClipping: WeightClipping(kappa=0.1)}  # so that five steps reach the bound

UNFED = (
    "found no linear or convolution layer of .* that feeds a nonlinearity .left alone .*: no layer feeds them directly"
)
NORMALISERS = ("BatchNorm", "LayerNorm", "MixedNorm", "RMSNorm", "NormalizeAndProject")
DOUBLING = ("CReLU", "FourierFeatures")
UNITS = ("ContinualBackprop", "ReDo", "SelfNormalizedResets")
DRAWN = ("SelectiveReinit", "ShrinkAndPerturb", "SoftShrinkAndPerturb")

REFUSES = {  # what is refused, by the kind of network, with the reason
    "LSTM": dict.fromkeys(NORMALISERS, UNFED) | dict.fromkeys(DOUBLING, "more than linear or convolution layers read"),
    "U-Net": {
        "OutputNorm": "takes an nn.Linear for an output layer, but output of UNet is Conv2d",
        "SpectralNorm": "found no linear layer before the output layer",
    },
    "experts": dict.fromkeys(DOUBLING, "more than linear or convolution layers read")
    | dict.fromkeys(("BatchNorm", "MixedNorm"), "expected more than one sample a unit for the statistics of the batch"),
    "LoRA": dict.fromkeys(NORMALISERS, UNFED)
    | dict.fromkeys(DOUBLING, "cannot resize 2, which is LoRA$")
    | dict.fromkeys(UNITS, "found no hidden units in Sequential that parameters feed one by one")
    | dict.fromkeys(DRAWN, r"no reset_parameters\(\) draws '0.A' of LoRA: write .*fresh=make_model"),
    "tied language model": {"PlasticityInjection": "cannot take head of .* for a head: its weight is embedding.weight"},
    "residual": dict.fromkeys(DOUBLING, "more than linear or convolution layers read")
    | {"SpectralNorm": "found no linear layer before the output layer"},
    "separable": dict.fromkeys(DOUBLING, "cannot resize 3, which is Conv2d.*groups=4")
    | {"SpectralNorm": "found no linear layer before the output layer"},
    "policy": dict.fromkeys(DRAWN, r"no reset_parameters\(\) draws 'log_std' of Policy: write .*fresh=make_model"),
}
SAYS = {  # and what is said of those that work
    "VAE": dict.fromkeys(UNITS, "no nonlinearity is seen between .* and the next layer"),
    "separable": dict.fromkeys(UNITS, "no nonlinearity is seen between '7' and the next layer"),
    "LoRA": {"WeightNorm": "WeightNorm left alone 0.A, 0.B, 2.A, 2.B: "},
    "LSTM": dict.fromkeys(UNITS, "no weights feed the units of tanh#2, tanh#4, tanh#6 one by one"),
    "U-Net": {"WeightNorm": "WeightNorm left alone up.weight: "},
    "tied language model": dict.fromkeys(
        (kind.__name__ for kind in registered()), "embedding.weight and head.weight are"
    ),
    "mixed precision": dict.fromkeys(NORMALISERS, ".*Norm left alone relu: no layer feeds"),
    "residual": dict.fromkeys(NORMALISERS, r".*Norm left alone 3\.relu#2: no layer feeds them directly")
    | {name: f"{name} draws no units of 2 anew and only sets to 0 the weights" for name in UNITS},
    "experts": {name: f"{name} draws no units of relu anew and only sets to 0 the weights" for name in UNITS},
    "encoder": {
        "WeightNorm": "WeightNorm left alone layer.self_attn.in_proj_weight, layer.self_attn.out_proj.weight: "
    },
}


def train(make, inputs, chain=None, event=None, steps=5):
    """The parameters afterwards, and what the keeper carries."""
    torch.manual_seed(0)
    model, generator = make(), torch.Generator().manual_seed(1)
    if chain is not None:
        model = chain.build(model, inputs(torch.Generator().manual_seed(2)))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    keeper = None if chain is None else chain.attach(model, optimizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(1)
    for step in range(steps):
        outputs = tree_leaves(model(inputs(generator)))
        loss = sum((output.float() - 1).square().mean() for output in outputs)
        loss = loss if keeper is None else loss + keeper.penalty(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if keeper is not None:
            if step == 0:
                start = copy.deepcopy(keeper.state)
            keeper.step()
            if step == 2 and event:
                keeper.event(event)
    params = {name: p.detach() for name, p in model.named_parameters()}
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert all(torch.equal(params[name], before[name]) for name in frozen)
    if keeper is None:
        return params, False
    keeper.detach()
    moved = any(not torch.equal(a, b) for a, b in zip(tree_leaves(start), tree_leaves(keeper.state), strict=True))
    hooks = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not any("keeper" in type(hook).__module__ for hook in hooks)
    return params, moved


@pytest.fixture(scope="module")
def plain():
    return {name: train(*kind)[0] for name, kind in KINDS.items()}


@pytest.mark.parametrize("intervention", sorted(ONE_EACH, key=lambda kind: kind.__name__), ids=lambda k: k.__name__)
@pytest.mark.parametrize("name", KINDS)
def test_works_or_says_why_not(name, intervention, plain):
    example, method = ONE_EACH[intervention], intervention.__name__
    chain = Chain(STRONGER.get(intervention, example.intervention))
    wanted, said = REFUSES.get(name, {}).get(method), SAYS.get(name, {}).get(method)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if wanted is not None:
            with pytest.raises(ValueError, match=wanted) as error:
                train(*KINDS[name], chain, example.event)
            assert Path(pliant.__file__).parent in Path(traceback.extract_tb(error.tb)[-1].filename).parents
            assert "\n" not in str(error.value)
            return
        params, moved = train(*KINDS[name], chain, example.event)
    lines = {str(warning.message) for warning in caught}
    gates = {line for line in lines if line.startswith(f"{method} leaves the units of sigmoid, sigmoid#2, tanh")}
    assert len(gates) == (name == "LSTM" and method in UNITS), lines  # what gates multiply is named beside
    lines -= gates
    assert len(lines) == (said is not None), lines
    assert said is None or re.match(said, lines.pop())
    assert all(p.isfinite().all() for p in params.values())
    same = params.keys() == plain[name].keys() and all(torch.equal(p, plain[name][n]) for n, p in params.items())
    assert moved or not same


# -- single kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* draws no units of relu anew")  # of the residual stream
def test_an_expert_without_tokens_is_not_measured():
    """Its averages stay, whether it is called with nothing or not called at all; it is never taken for silent."""
    for skip in (False, True):
        kind = Skipping if skip else KINDS["experts"].make
        for method in UNITS:
            example = next(e for e in ONE_EACH.values() if type(e.intervention).__name__ == method)
            torch.manual_seed(0)
            model = kind()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            keeper = Chain(example.intervention).attach(model, optimizer)
            everybody = torch.randn(64, 3)
            model(everybody).sum().backward()
            optimizer.step()
            keeper.step()
            units = next(u for u in keeper._ground.network.units if u.name.startswith("experts"))
            with torch.no_grad():
                model.gate.bias[int(units.name.split(".")[1])] -= 100  # nobody goes to this expert any more
            before = copy.deepcopy(keeper.state)
            for _ in range(3):
                model(everybody).sum().backward()
                optimizer.step()
                keeper.step()
            if method == "ContinualBackprop":
                place = sum(u.size for u in keeper._ground.network.units[: keeper._ground.network.units.index(units)])
                for of in ("utility", "mean", "age"):
                    now, then = (s[0][of][place : place + units.size] for s in (keeper.state, before))
                    assert torch.equal(now, then)
            elif method == "SelfNormalizedResets":
                assert torch.equal(keeper.state[0]["silent"][units.name], before[0]["silent"][units.name])
            assert all(p.isfinite().all() for p in model.parameters())
            keeper.detach()


class Skipping(KINDS["experts"].make):
    """An expert that gets no token is not called."""

    def forward(self, x):
        h = torch.relu(self.stem(x))
        weights = self.gate(h).softmax(-1)
        best, out = weights.argmax(-1), h.clone()
        for i, expert in enumerate(self.experts):
            rows = (best == i).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, expert(h[rows]) * weights[rows, i : i + 1])
        return self.output(out)


def test_frozen_layers_stay_frozen():
    model = nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.ReLU(), nn.Linear(4, 2).requires_grad_(False))
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="PlasticityInjection cannot take 2 of Sequential for a head: it is frozen"):
        ONE_EACH[next(k for k in ONE_EACH if k.__name__ == "PlasticityInjection")].intervention.build(model, x)
    built = ONE_EACH[next(k for k in ONE_EACH if k.__name__ == "WeightNorm")].intervention.build(model, x)
    assert not any(p.requires_grad for p in built.parameters())
    frozen = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2).requires_grad_(False))
    for method, module, why in (
        (Reset("last"), frozen, r"some of 0.weight, 0.bias, got 'last': the output layer is not among them"),
        (FIRE(), adapted(), "FIRE found no weight of a linear or convolution layer among 0.A, 0.B, 2.A, 2.B"),
    ):
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad])
        with pytest.raises(ValueError, match=why):
            Chain(method).attach(module, optimizer), module(x)


def adapted():
    return nn.Sequential(LoRA(nn.Linear(3, 4)), nn.ReLU(), LoRA(nn.Linear(4, 2)))


def test_of_an_adapted_output_layer_what_makes_the_output_is_reset():
    """B, whose product is added to the frozen layer's: with B drawn anew (0), nothing is left of the adapter."""
    model, x = adapted(), torch.ones(2, 3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p += 0.1 * name.endswith("B")
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.0)
    keeper = Chain(Reset("last", event="task_switch")).attach(model, optimizer, fresh=adapted)
    model(x).sum().backward()
    optimizer.step()
    keeper.step()
    keeper.event("task_switch")
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["2.B"]
    assert (model[2].B == 0).all()


def test_a_tied_head_is_the_output_layer():
    """Under whatever name: features before it have length 1, and it is none of the hidden layers."""
    model, tokens = TiedLanguageModel(), torch.arange(6).reshape(2, 3)
    built = EXAMPLES["OutputNorm"].intervention.build(model, tokens)
    rows = model.embedding.weight.norm(dim=1).detach()
    assert (built(tokens).detach().abs() <= rows + 1e-6).all()
    built = EXAMPLES["SpectralNorm of all hidden layers"].intervention.build(model, tokens)
    assert type(built.head) is nn.Linear
    assert type(built.expand) is not nn.Linear


def test_fire_turns_transposed_convolutions():
    layer = nn.ConvTranspose2d(3, 5, 1).double()
    network = pliant.Network(layer)
    new = FIRE(iterations=200).on_event(network, "task_switch", network.params(), {}, {}, None).params["weight"]
    torch.testing.assert_close(torch.linalg.svdvals(new[:, :, 0, 0]), torch.full((3,), (5 / 3) ** 0.5).double())


def test_churn_of_several_outputs_is_their_sum():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 3)

        def forward(self, x):
            return {"value": self.a(x), "logits": (self.b(x), x.argmax(1))}

    x = torch.ones(4, 2)
    network = pliant.Network(Two(), example=x)
    params = network.params()
    moved = {name: p + 1 for name, p in params.items()}  # every output by 2 + 1
    method = CChain(0.5)
    assert method.penalty(network, moved, method.init(network, params), None).item() == pytest.approx(0.5 * 4 * 9)
    with pytest.raises(ValueError, match="distance='kl' expected Two to return one tensor of logits, got dict with 2"):
        CChain(0.5, distance="kl").penalty(network, moved, method.init(network, params), None)


def test_nonlinearities_in_place_are_replaced_and_nothing_after_them():
    kind = KINDS["in place"]
    x = kind.inputs(torch.Generator().manual_seed(0))
    for method, new in (("Activation", "Replacement"), ("CReLU", "Doubled")):
        built = next(e for k, e in ONE_EACH.items() if k.__name__ == method).intervention.build(kind.make(), x)
        kinds = [type(layer).__name__ for layer in built]
        assert kinds == ["Conv2d", new, "Dropout", "Flatten", "Identity", "Linear", new, "Dropout", "Linear"]


class Thrown(nn.Module):
    """Nonlinearities in place whose results nobody takes."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        F.relu(x, inplace=True)
        x = self.second(x)
        F.leaky_relu(x, 0.1, True)
        return self.output(x)


def test_functions_in_place_are_replaced_in_place():
    net, x = Thrown(), torch.randn(5, 3)
    expected = net.output(net.second(net.first(x).tanh()).tanh())
    torch.testing.assert_close(EXAMPLES["Activation tanh"].intervention.build(net, x)(x), expected)


WEIGHTS_ALONE = (
    "FIRE",
    "NormalizeAndProject",
    "Parseval",
    "SpectralRegulariser",
    "WeightClipping",
    "WeightNormRescale",
)


@pytest.mark.parametrize("intervention", [k for k in ONE_EACH if k.__name__ in WEIGHTS_ALONE], ids=lambda k: k.__name__)
def test_a_log_std_is_no_weight(intervention, plain):
    """Its gradient depends on itself alone, so that it goes where it goes without them."""
    example = ONE_EACH[intervention]
    chain = Chain(STRONGER.get(intervention, example.intervention))
    after, _ = train(*KINDS["policy"], chain, example.event)
    assert torch.equal(after["log_std"], plain["policy"]["log_std"])
    assert not torch.equal(after["actor.0.weight"], plain["policy"]["actor.0.weight"])


def test_parseval_of_an_embedding_takes_the_smaller_product():
    tall = torch.randn(7, 3, dtype=torch.float64)
    network = pliant.Network(nn.Embedding(7, 3))
    penalty = Parseval(0.5, scale=2.0).penalty(network, {"weight": tall}, {}, None)
    torch.testing.assert_close(penalty, 0.5 * (tall @ tall.T - 2 * torch.eye(7)).square().sum())


def test_what_multiplies_with_weights_and_is_left_alone_is_named():
    class Conv1D(nn.Module):  # as GPT-2 spells a linear layer
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight)

    net = nn.Sequential(
        nn.Embedding(5, 3), nn.Flatten(), Conv1D(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    for method in (WeightNorm(), SpectralNorm(5, layers="hidden")):
        with pytest.warns(UserWarning, match=r"Norm left alone 2\.weight: no plain linear or convolution layers$"):
            method.build(net, torch.arange(4)[:, None])

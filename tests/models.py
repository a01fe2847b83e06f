"""Small models as people write them, and the contract that a `Network` of each keeps: it is the user's network."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from pliant.adapter import HOOKS, bare, inexact, tensors_of
from pliant.network import Network
from pliant.sites import Inputs, arguments


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Case(NamedTuple):
    """A model, inputs for it, and how it is called where that is not `forward`."""

    make: Callable[[], nn.Module]
    x: Any
    call: Any = None


# -- nonlinearities in place -------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A residual block of the usual spelling: `inplace=True`, and the sum written into the branch."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.act, self.inplace = nn.ReLU(inplace=inplace), inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.two(self.act(self.first(self.one(x)))))
        if self.inplace:
            y += x
        else:
            y = y + x
        return self.act(y)


def image_net(inplace: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.Identity(), Block(inplace), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(16, 6), nn.SiLU(inplace=inplace), nn.Dropout(0.5, inplace=inplace), nn.Linear(6, 2),
    ).eval()  # fmt: skip


class Statement(nn.Module):
    """Nonlinearities whose results are used by way of their arguments."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.act, self.inplace = nn.LeakyReLU(0.1, inplace), inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if not self.inplace:
            return self.c(self.act(self.b(F.relu(x))))
        F.relu(x, inplace=True)
        x = self.b(x)
        self.act(x)
        return self.c(x)


class Overwritten(nn.Module):
    """What left the nonlinearity is changed afterwards."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.a, self.skip, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.a(x))
        if self.inplace:
            h += self.skip(x)
            h.view(-1, 8).mul_(0.5)
            h = F.dropout(h, 0.5, False, True)
        else:
            h = (h + self.skip(x)) * 0.5
        k = torch.tanh(self.b(h))
        if self.inplace:
            k = k.clone()
            k[:, 0] = 0.0
        else:
            k = torch.cat([torch.zeros_like(k[:, :1]), k[:, 1:]], 1)
        return self.c(k)


TWINS = {  # in place or not, inputs
    "image net": (image_net, normal(20, 3, 6, 6)),
    "statements": (Statement, normal(20, 4)),
    "changed afterwards": (Overwritten, normal(20, 4)),
}


# -- buffers, dtypes, names --------------------------------------------------------------------------------------------


class Normalised(nn.Module):
    """Statistics of the observations in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([1.7e9 + 37], dtype=torch.float64))
        self.net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, t: Tensor) -> Tensor:
        return self.net(((t - self.mean) / 30).float())


class Rotary(nn.Module):
    """Frequencies in float32 in a bfloat16 model."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4).bfloat16()
        self.register_buffer("inv_freq", 10000 ** -(torch.arange(0, 8, 2) / 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1])[:, None] * self.inv_freq
        cos, sin, (a, b) = angle.cos().to(x.dtype), angle.sin().to(x.dtype), x.chunk(2, -1)
        return torch.relu(self.a(torch.cat([a * cos - b * sin, a * sin + b * cos], -1)))


class Mixed(nn.Module):
    """A layer norm in float32 in a bfloat16 model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(8, 16).bfloat16(), nn.LayerNorm(16), nn.Linear(16, 4).bfloat16()

    def forward(self, t: Tensor) -> Tensor:
        return self.b(torch.relu(self.n(self.a(t).float())).bfloat16())


class Counting(nn.Module):
    """A buffer that every call changes, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return self.b(torch.relu(self.a(x))) + self.seen


class SharedBody(nn.Module):
    """One submodule under two names, as in the policies of Stable-Baselines3."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 2)
        self.encoder = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) + self.encoder(-x))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 7, bias=False))
    module[3].weight = module[0].weight
    return module


class Complex(nn.Module):
    """A filter in the frequency domain."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(3, dtype=torch.complex64))
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=4))))


class Frozen(nn.Module):
    """Whole numbers among the parameters, and a part that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randint(-3, 4, (8, 4), dtype=torch.int8), requires_grad=False)
        self.scale, self.b = nn.Parameter(torch.ones(8, 1)), nn.Linear(8, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(F.linear(x, self.codes * self.scale)))


# -- how the forward pass is written -----------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool):
        super().__init__()
        self.a, self.b, self.c, self.use_reentrant = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), use_reentrant

    def block(self, h: Tensor) -> Tensor:
        return torch.relu(self.b(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(checkpoint(self.block, torch.tanh(self.a(x)), use_reentrant=self.use_reentrant))


class Distribution:
    """An object of a policy: what it was last called with stays in it."""

    def __init__(self) -> None:
        self.last: Tensor | None = None


class Caching(nn.Module):
    """Keeps what it computed last in an attribute, a dict, a list and an object; and what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.cache: dict[str, Tensor] = {}
        self.outputs: list[Tensor] = []
        self.distribution, self.lock, self.words = Distribution(), threading.Lock(), (str(i) for i in range(3))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.last = self.cache["h"] = torch.relu(self.a(x))
            self.distribution.last = self.b(self.last)
            self.outputs = [self.distribution.last]
        return self.outputs[0]


def after_a_call(module: nn.Module, x: Any) -> nn.Module:
    args, kwargs = arguments(x)
    module(*args, **kwargs)
    return module


class Closing(nn.Module):
    """A function that closes over the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.features = lambda x: torch.relu(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.features(x))


class Agent(nn.Module):
    """An actor and a critic without `forward`, as in CleanRL."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.actor = (
            nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, n), nn.Identity()) for n in (1, 2)
        )

    def get_value(self, x: Tensor) -> Tensor:
        return self.critic(x)

    def get_action_and_value(self, x: Tensor, action: Tensor | None = None) -> tuple[Any, ...]:
        found = torch.distributions.Categorical(logits=self.actor(x))
        action = torch.zeros(len(x), dtype=torch.long) if action is None else action
        return action, found.log_prob(action), found.entropy(), self.critic(x)


class Distributional(Agent):
    """Returns a distribution, which is no tree of tensors."""

    def forward(self, x: Tensor) -> Any:
        return torch.distributions.Categorical(logits=self.actor(x)), self.critic(x)


class Moded(nn.Module):
    """Computes something else in train mode than in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x))
        return (self.b(h), self.aux(h)) if self.training else self.b(h)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def weight_normed() -> nn.Module:
    module = mlp()
    nn.utils.weight_norm(module[0])
    return module


def spectral_normed() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))


def parametrized() -> nn.Module:
    module = mlp()
    nn.utils.parametrizations.weight_norm(module[0])
    nn.utils.parametrizations.orthogonal(module[2])
    return module


def sparse() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(7, 4, sparse=True), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


VECTORS = normal(6, 4)
MODELS: dict[str, Case] = {
    **{f"{name}, in place": Case(lambda make=make: make(True), x) for name, (make, x) in TWINS.items()},
    "float64 statistics": Case(Normalised, 1.7e9 + 30 * normal(6, 1, dtype=torch.float64)),
    "rotary": Case(Rotary, normal(2, 256, 8, dtype=torch.bfloat16)),
    "mixed dtypes": Case(Mixed, normal(6, 8, dtype=torch.bfloat16)),
    "changing buffer": Case(Counting, VECTORS),
    "one body, two names": Case(lambda: SharedBody().eval(), VECTORS),
    "tied weights": Case(tied, torch.arange(6).reshape(2, 3)),
    "complex": Case(Complex, VECTORS),
    "whole numbers, frozen": Case(Frozen, VECTORS),
    "checkpointing": Case(lambda: Checkpointed(False), VECTORS),
    "reentrant checkpointing": Case(lambda: Checkpointed(True), VECTORS.clone().requires_grad_()),
    "cached tensors": Case(lambda: after_a_call(Caching(), VECTORS), VECTORS),
    "closure": Case(Closing, VECTORS),
    "agent by name": Case(Agent, VECTORS, "get_action_and_value"),
    "agent by function": Case(Agent, Inputs((VECTORS,), {}), lambda agent, x: (agent.actor(x), agent.get_value(x))),
    "agent with two inputs": Case(Agent, Inputs((VECTORS, torch.ones(6).long()), {}), "get_action_and_value"),
    "distribution": Case(Distributional, VECTORS),
    "train mode": Case(Moded, VECTORS),
    "eval mode": Case(lambda: Moded().eval(), VECTORS),
    "weight norm of old": Case(weight_normed, VECTORS),
    "weight norm of old, called": Case(lambda: after_a_call(weight_normed(), VECTORS), VECTORS),
    "spectral norm of old": Case(spectral_normed, VECTORS),
    "parametrizations": Case(parametrized, VECTORS),
    "sparse embedding": Case(sparse, torch.arange(6).reshape(2, 3)),
    "recurrent": Case(lambda: nn.LSTM(4, 3, batch_first=True), normal(2, 5, 4)),
    "DataParallel": Case(lambda: nn.DataParallel(mlp()), VECTORS),
}


def everything(model: nn.Module) -> dict[str, Any]:
    """What a measurement must leave as it is."""
    return {
        "tensors": {name: t.detach().clone() for name, t in model.state_dict(keep_vars=True).items()},
        "buffers": {name: b.clone() for name, b in model.named_buffers(remove_duplicate=False)},
        "same": [id(p) for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [{key: dict(getattr(m, key)) for key in HOOKS} for m in model.modules()],
        "attributes": [{k: id(v) for k, v in vars(m).items() if k != "_compiled_call_impl"} for m in model.modules()],
        "stream": torch.get_rng_state(),
    }


def called(case: Case, model: nn.Module) -> Any:
    """What the user's own call returns."""
    args, kwargs = arguments(case.x)
    if case.call is None:
        return model(*args, **kwargs)
    if isinstance(case.call, str):
        return getattr(model, case.call)(*args, **kwargs)
    return case.call(model, *args, **kwargs)


def scalar(output: Any) -> Tensor:
    found = [t.float() for t in tensors_of(output) if t.is_floating_point()]
    return torch.stack([(t * normal(*t.shape, seed=i)).sum() for i, t in enumerate(found)]).sum()


def gradients(output: Any, params: dict[str, Tensor]) -> dict[str, Tensor]:
    wanted = {name: p for name, p in params.items() if p.requires_grad}
    found = torch.autograd.grad(scalar(output), list(wanted.values()), allow_unused=True)
    return {n: torch.zeros_like(wanted[n]) if g is None else g for n, g in zip(wanted, found, strict=True)}


def assert_same(a: Any, b: Any) -> None:
    (left, shape), (right, other) = tree_flatten(a), tree_flatten(b)
    assert shape == other
    for x, y in zip(left, right, strict=True):
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y


def check_contract(case: Case) -> None:
    """`Network(model)(params, x)` equals `model(x)`, gradients equal the model's own, the model stays as it is."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(case.make())
    model, reference = models
    before = everything(model)
    network = Network(model, call=case.call)
    params = network.params()
    assert list(params) == [name for name, _ in bare(model).named_parameters()]
    outputs = [network(params, case.x) for _ in range(2)]
    network({name: torch.ones_like(p) for name, p in params.items()}, case.x)
    outputs.append(network(params, case.x))
    leaves = {n: p.clone().requires_grad_(inexact(p)) for n, p in params.items()}
    found = gradients(network(leaves, case.x), leaves)
    bound, own = network.bound(params)
    outputs.append(bound(own, case.x))
    in_place = gradients(outputs[-1], own)
    assert_same(params, network.params())
    assert_same(before, everything(model))

    for p in reference.parameters():
        p.requires_grad_(inexact(p))
    expected = called(case, reference)
    scalar(expected).backward()
    for output in outputs:
        assert_same(tensors_of(output), tensors_of(expected))
    for name, p in bare(reference).named_parameters():
        if p.requires_grad:
            grad = torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
            torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(in_place[name], grad, rtol=1e-5, atol=1e-7)

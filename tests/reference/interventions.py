"""Interventions one number at a time, networks by their formulas, and PyTorch's own training loop; all in float64."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Params = dict[str, Tensor]


# -- networks ----------------------------------------------------------------------------------------------------------


def layer_norm(z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Mean 0, variance 1 of each sample `(units, ...)`, then a scale and an offset a unit."""
    samples = []
    for sample in z:
        numbers = sample.flatten()
        mean = sum(numbers) / len(numbers)
        variance = sum((number - mean) ** 2 for number in numbers) / len(numbers)
        units = [(unit - mean) / (variance + eps) ** 0.5 for unit in sample]
        samples.append(torch.stack([weight[i] * unit + bias[i] for i, unit in enumerate(units)]))
    return torch.stack(samples)


class Forward:
    """Layers by name; one that has parameters `name.norm.*` is followed by layer normalisation."""

    def __init__(self, params: Params, eps: float):
        self.params, self.eps = params, eps

    def linear(self, name: str, x: Tensor) -> Tensor:
        return self._norm(name, x @ self.params[f"{name}.weight"].T + self.params[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, padding: int = 0) -> Tensor:
        return self._norm(
            name, F.conv2d(x, self.params[f"{name}.weight"], self.params[f"{name}.bias"], padding=padding)
        )

    def own_norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, self.params[f"{name}.weight"], self.params[f"{name}.bias"], 1e-5)

    def _norm(self, name: str, z: Tensor) -> Tensor:
        if f"{name}.norm.weight" not in self.params:
            return z
        return layer_norm(z, self.params[f"{name}.norm.weight"], self.params[f"{name}.norm.bias"], self.eps)


def mlp(layers: Forward, x: Tensor) -> Tensor:
    x = layers.linear("first", x).clamp(min=0)
    return layers.linear("output", torch.tanh(layers.linear("second", x)))


def cnn(layers: Forward, x: Tensor) -> Tensor:
    x = layers.conv("first", x).clamp(min=0)
    x = layers.conv("second", x).clamp(min=0).flatten(1)
    return layers.linear("output", layers.linear("hidden", x).clamp(min=0))


def residual(layers: Forward, x: Tensor) -> Tensor:
    x = layers.conv("stem", x).clamp(min=0)
    x = (x + layers.conv("back", layers.conv("inner", x, 1).clamp(min=0), 1)).clamp(min=0)
    return layers.linear("output", x.mean((2, 3)))


def attention(layers: Forward, x: Tensor) -> Tensor:
    batch, tokens = x.shape[:2]

    def each_token(function, x):
        return function(x.flatten(0, 1)).unflatten(0, (batch, tokens))

    x = x @ layers.params["embed.weight"].T + layers.params["embed.bias"]
    y = each_token(lambda t: layers.own_norm("norm", t), x)
    query, key, value = (each_token(lambda t, n=n: layers.linear(n, t), y) for n in ("query", "key", "value"))
    scores = torch.stack([q @ k.T / math.sqrt(q.shape[1]) for q, k in zip(query, key, strict=True)])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    x = x + torch.stack([w @ v for w, v in zip(weights, value, strict=True)])
    z = each_token(lambda t: layers.linear("expand", t), x)
    z = 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))
    x = x + each_token(lambda t: layers.linear("contract", t), z)
    return layers.linear("output", x.mean(1))


# -- interventions -----------------------------------------------------------------------------------------------------


class Nothing:
    """What an intervention does by default; `names` are the parameters it is told to touch."""

    def __init__(self, names: set[str]):
        self.names = names

    def start(self, params: Params) -> None: ...

    def add_gradient(self, params: Params) -> None: ...

    def after_step(self, params: Params) -> None: ...

    def event(self, params: Params, moments: list[dict[str, Tensor]], fresh: Params) -> None: ...


class L2(Nothing):
    """The loss gains strength * (sum of w^2), so each gradient 2 * strength * w."""

    def __init__(self, names: set[str], strength: float):
        super().__init__(names)
        self.strength = strength

    def add_gradient(self, params: Params) -> None:
        for name in self.names:
            for w, g in zip(params[name].data.view(-1), params[name].grad.view(-1), strict=True):
                g += 2 * self.strength * w.item()


class ShrinkAndPerturb(Nothing):
    """w <- shrink w + perturb w', with w' a fresh draw; moments and step counts to zero if `clear`."""

    def __init__(self, names: set[str], shrink: float, perturb: float, clear: bool):
        super().__init__(names)
        self.shrink, self.perturb, self.clear = shrink, perturb, clear

    def event(self, params: Params, moments: list[dict[str, Tensor]], fresh: Params) -> None:
        for name in self.names:
            for w, new in zip(params[name].data.view(-1), fresh[name].reshape(-1), strict=True):
                w.fill_(self.shrink * w.item() + self.perturb * new.item())
        for moment in moments if self.clear else []:
            for value in moment.values():
                value.zero_()


class WeightNormRescale(Nothing):
    """Every weight matrix back to the Frobenius norm it had at the start."""

    def start(self, params: Params) -> None:
        self.norms = {name: self._norm(params[name]) for name in self.names}

    def after_step(self, params: Params) -> None:
        for name in self.names:
            factor = self.norms[name] / self._norm(params[name])
            for w in params[name].data.view(-1):
                w.fill_(w.item() * factor)

    @staticmethod
    def _norm(matrix: Tensor) -> float:
        return math.sqrt(math.fsum(w.item() ** 2 for w in matrix.flatten()))


def train(forward, eps, params, batches, make_optimizer, method, event_at, fresh) -> Params:
    """`method` in PyTorch's own loop: gradients by autograd, updates by torch.optim."""
    params = {name: nn.Parameter(p.double().clone()) for name, p in params.items()}
    optimizer = make_optimizer(list(params.values()))
    method.start(params)
    for step, (x, y) in enumerate(batches):
        if step == event_at:
            method.event(params, list(optimizer.state.values()), fresh)
        optimizer.zero_grad()
        F.cross_entropy(forward(Forward(params, eps), x), y).backward()
        method.add_gradient(params)
        optimizer.step()
        method.after_step(params)
    return {name: p.detach() for name, p in params.items()}

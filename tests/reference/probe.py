"""P1's targets from their formula, one number at a time in float64, and refits as a plain loop of torch.optim."""

import copy
import math

import torch
from torch.func import functional_call


def perceptron(params, row):
    """The outputs of `nn.Sequential(Linear, Tanh, Linear)` on one input."""
    (w1, b1, w2, b2) = (p.tolist() for p in params.values())
    hidden = [math.tanh(b + sum(w * v for w, v in zip(ws, row, strict=True))) for ws, b in zip(w1, b1, strict=True)]
    return [b + sum(w * h for w, h in zip(ws, hidden, strict=True)) for ws, b in zip(w2, b2, strict=True)]


def expectations(outputs, centres):
    """The means of the distributions whose logits lie side by side in `outputs`."""
    means = []
    for start in range(0, len(outputs), len(centres)):
        weights = [math.exp(logit) for logit in outputs[start : start + len(centres)]]
        means.append(sum(w * z for w, z in zip(weights, centres, strict=True)) / sum(weights))
    return means


def sines(drawn, params, rows, frequency=1e5, offset=None, centres=None):
    """g(x) = a + sin(1e5 f(x; w0)), a the mean prediction of each value."""

    def values(params, row):
        outputs = perceptron(params, row)
        return outputs if centres is None else expectations(outputs, centres)

    now = [values(params, row) for row in rows]
    means = [sum(column) / len(rows) for column in zip(*now, strict=True)]
    a = means if offset is None else [offset] * len(means)
    return [[b + math.sin(frequency * f) for b, f in zip(a, values(drawn, row), strict=True)] for row in rows]


def refit(module, params, make_optimizer, loss, x, y, batches, carried=None):
    """Losses on all inputs before training and after every step; `carried` is an optimizer that trained `params`."""
    model = copy.deepcopy(module)
    model.load_state_dict(params)
    optimizer = make_optimizer(model.parameters())
    if carried is not None:
        optimizer.load_state_dict(copy.deepcopy(carried.state_dict()))
    curve = []
    for batch in [None, *batches]:
        if batch is not None:
            optimizer.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            curve.append(float(loss(functional_call(model, dict(model.named_parameters()), (x,)), y)))
    return curve

"""Your own module and loop: how many units are dead or linearized, what rank do the features have, has the norm grown?

Plain PyTorch trains a network on digits whose labels are random and change every 300 steps. Three lines look inside.

    python examples/look_inside.py
"""

import torch
from torch import nn

from pliant import Network
from pliant.data import load
from pliant.diagnostics import DeadUnits, FeatureRanks, LinearizedUnits, Observation, ParameterNorm

torch.manual_seed(0)
digits = load("digits")
x = digits.standardize(torch.tensor(digits.x_train[:1000])).flatten(1)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

initial = Network(model).params()
for task in range(6):
    y = torch.randint(10, (len(x),))
    for _ in range(300):
        batch = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network = Network(model)  # a copy: your model is not touched
    seen = Observation(network.params(), initial=initial, trace=network.trace(network.params(), x))
    numbers = {
        k: v
        for d in (DeadUnits(), LinearizedUnits(), FeatureRanks(), ParameterNorm())
        for k, v in d.measure(seen).items()
    }

    accuracy = (model(x).argmax(1) == y).float().mean()
    shown = ("dead", "linearized", "effective_rank", "norm_ratio")
    print(f"task {task}: accuracy {accuracy:.2f}, " + ", ".join(f"{name} {numbers[name]:.2f}" for name in shown))

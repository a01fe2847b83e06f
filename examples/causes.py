"""Age a network on labels that keep changing, then ask what took its plasticity: about a minute on two cores."""

import torch
from torch import nn

import pliant
from pliant.data import load
from pliant.probe import FreshLabels

digits = load("digits")
x = digits.standardize(torch.tensor(digits.x_train[:256])).flatten(1)


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


torch.manual_seed(0)
model = make_model()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for task in range(10):
    labels = torch.randint(10, (len(x),))
    for _ in range(300):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"task {task}: accuracy {(model(x).argmax(1) == labels).float().mean():.2f}")

report = pliant.disentangle(
    model, fresh=make_model, inputs=x, optimizer=optimizer, probe=FreshLabels(10), targets=3, steps=200, batch_size=64
)
print(report)

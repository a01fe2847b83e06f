"""Your own training loop in plain PyTorch, watched by two more lines (marked): which of its units die, and when?

A network learns digits whose labels are random and change every 300 steps. Training is bitwise the same without the
monitor. This is the whole of it in a CleanRL script, too, with a batch of observations as the probe.

    python examples/monitor_loop.py
"""

import torch
from torch import nn

import pliant
from pliant.data import load

torch.manual_seed(0)
digits = load("digits")
x = digits.standardize(torch.tensor(digits.x_train[:1000])).flatten(1)
y = torch.randint(10, (len(x),))
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
loss_fn = nn.functional.cross_entropy

monitor = pliant.Monitor(model, probe=(x, y), loss=loss_fn, optimizer=optimizer, every=300)  # (1)
for step in range(1801):
    if step % 300 == 0:
        y = torch.randint(10, (len(x),))
    batch = torch.randint(len(x), (128,))
    loss = loss_fn(model(x[batch]), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    monitor(step)  # (2)

shown = ("dead", "linearized", "effective_rank", "norm_ratio", "gradient_norm", "relative_update")
for row in monitor.rows:
    print(f"step {row['step']:4}: " + ", ".join(f"{name} {row[name]:.3g}" for name in shown))

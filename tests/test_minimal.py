"""What the monitor and recipes need: torch and numpy alone."""

import subprocess
import sys

CODE = """
import sys
import torch, torch._dynamo
for name in ("scipy", "sklearn", "rich", "pooch", "matplotlib", "pyarrow", "requests", "safetensors", "PIL", "jinja2"):
    sys.modules[name] = None  # cannot be imported any more
import pliant
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters())
monitor = pliant.Monitor(model, probe=torch.randn(64, 4), optimizer=optimizer, every=1)
keeper = pliant.Chain(pliant.L2(1e-4), pliant.ReDo(tau=0.1, every=1)).attach(model, optimizer)
(model(torch.randn(8, 4)).sum() + keeper.penalty()).backward()
optimizer.step()
keeper.step()
monitor(1)
print(monitor.latest["dead"] >= 0, keeper.steps)
"""


def test_monitor_and_recipes_run_without_the_packages_of_experiments() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert ran.stdout.split() == ["True", "1"], ran.stderr

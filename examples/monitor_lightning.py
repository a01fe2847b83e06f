"""A Lightning module, watched by one callback (marked), on digits.

Training is bitwise the same without the callback. Needs pip install 'pliant[lightning]'.

    python examples/monitor_lightning.py
"""

import logging
import warnings

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pliant.data import load
from pliant.integrations.lightning import MonitorCallback

warnings.filterwarnings("ignore")  # Lightning's hints
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


lightning.seed_everything(0, verbose=False)
digits = load("digits")
x, y = digits.standardize(torch.tensor(digits.x_train[:1000])).flatten(1), torch.tensor(digits.y_train[:1000])
callback = MonitorCallback((x[:256], y[:256]), loss=nn.functional.cross_entropy, every=20)  # (1)
trainer = lightning.Trainer(
    max_epochs=10, accelerator="cpu", callbacks=[callback], logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Classifier(), DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True))

shown = ("dead", "linearized", "effective_rank", "norm_ratio", "gradient_norm", "relative_update")
for row in callback.monitor.rows:
    print(f"step {row['step']:4}: " + ", ".join(f"{name} {row[name]:.3g}" for name in shown))

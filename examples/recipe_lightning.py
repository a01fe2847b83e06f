"""A Lightning module with a recipe against loss of plasticity, in one callback (marked): labels change every 10 epochs.

Needs pip install 'pliant[lightning]'.

    python examples/recipe_lightning.py
"""

import logging
import warnings

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pliant import L2, Chain, LayerNorm
from pliant.data import load
from pliant.integrations.lightning import RecipeCallback
from pliant.interventions import OptimizerReset

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


class Relabelled(lightning.Callback):
    """New labels every ten epochs; the recipe is told."""

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch and trainer.current_epoch % 10 == 0:
            y.random_(10)
            recipe.event("task_switch")


lightning.seed_everything(0, verbose=False)
digits = load("digits")
x, y = digits.standardize(torch.tensor(digits.x_train[:1000])).flatten(1), torch.randint(10, (1000,))
chain = Chain(LayerNorm(), L2(1e-3), OptimizerReset())
recipe = RecipeCallback(chain, example=x[:8])  # (1)
trainer = lightning.Trainer(
    max_epochs=30, accelerator="cpu", callbacks=[recipe, Relabelled()], logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
module = Classifier()
trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True))
with torch.no_grad():
    accuracy = (module(x).argmax(1) == y).float().mean()
print(f"accuracy {accuracy:.2f} on the third labels, after {recipe.keeper.steps} steps with {chain}")

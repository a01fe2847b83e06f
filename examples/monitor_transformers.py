"""A model of Hugging Face Transformers in its Trainer, watched by one callback (marked): a tiny GPT-2 learns to count.

Training is bitwise the same without the callback. Needs pip install 'pliant[transformers]'; nothing is downloaded.

    python examples/monitor_transformers.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from pliant.integrations.transformers import MonitorCallback

torch.manual_seed(0)
config = GPT2Config(
    vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
)  # fmt: skip
model = GPT2LMHeadModel(config)
tokens = (torch.randint(64, (512, 1)) + torch.arange(16)) % 64  # counting on from anywhere
data = [{"input_ids": row, "labels": row} for row in tokens]
probe = {"input_ids": tokens[:64], "labels": tokens[:64]}
callback = MonitorCallback(probe, every=20, purify=True)  # (1): purify, as GPT-2 has dropout
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        folder, max_steps=100, per_device_train_batch_size=32, learning_rate=1e-2, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=model, args=args, train_dataset=data, callbacks=[callback]).train()

shown = ("dead", "linearized", "entropy", "norm_ratio", "gradient_norm", "relative_update")
for row in callback.monitor.rows:
    print(f"step {row['step']:3}: " + ", ".join(f"{name} {row[name]:.3g}" for name in shown))

"""A tiny GPT-2 fine-tuned over three tasks in Hugging Face's Trainer, with a recipe in one callback (marked).

Each `train()` after the first is the event "task_switch": weights shrink towards their fresh draws, then L2 to init
keeps them near. Needs pip install 'pliant[transformers]'; nothing is downloaded.

    python examples/recipe_transformers.py
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from pliant import Chain, ShrinkAndPerturb
from pliant.integrations.transformers import RecipeCallback
from pliant.interventions import L2Init


def make_model():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


torch.manual_seed(0)
model = make_model()
recipe = Chain(L2Init(1e-4), ShrinkAndPerturb(0.8, 0.2))
callback = RecipeCallback(recipe, fresh=make_model)  # (1)
with tempfile.TemporaryDirectory() as folder:
    args = TrainingArguments(
        folder, max_steps=60, per_device_train_batch_size=32, learning_rate=1e-2, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    for stride in (1, 3, 5):  # counting on from anywhere, in steps of 1, 3, 5
        tokens = (torch.randint(64, (512, 1)) + stride * torch.arange(16)) % 64
        data = [{"input_ids": row, "labels": row} for row in tokens]
        Trainer(model=model, args=args, train_dataset=data, callbacks=[callback]).train()
        with torch.no_grad():
            loss = model.eval()(input_ids=tokens[:64], labels=tokens[:64]).loss
        print(f"counting by {stride}: loss {loss:.3f}")
print(f"{callback.keeper.steps} steps with {recipe}")

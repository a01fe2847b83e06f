"""Transformers, narrow and shallow, with random weights: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from pliant import Inputs
from tests.extras.zoo.network import Net

WORDS, WIDTH, LAYERS = 40, 16, 2
SPECIAL: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "use_cache": False}
BLOCK: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, **SPECIAL,
}  # fmt: skip


def words(length: int = 7, batch: int = 6) -> Tensor:
    return torch.randint(3, WORDS, (batch, length))


def encoded() -> Inputs:
    return Inputs((), {"input_ids": words()})


def pairs() -> Inputs:
    return Inputs((), {"input_ids": words(), "decoder_input_ids": words(5)})


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=WIDTH, n_layer=LAYERS, n_head=2, **SPECIAL)
    )


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(intermediate_size=24, num_key_value_heads=1, **BLOCK))


def mixtral() -> nn.Module:
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(intermediate_size=24, num_key_value_heads=1, num_local_experts=3, **BLOCK)
    )


def opt() -> nn.Module:
    return hf.OPTForCausalLM(hf.OPTConfig(ffn_dim=24, max_position_embeddings=16, word_embed_proj_dim=WIDTH, **BLOCK))


def mamba() -> nn.Module:
    return hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=WORDS, hidden_size=WIDTH, state_size=4, num_hidden_layers=LAYERS, **SPECIAL)
    )


def bert() -> nn.Module:
    return hf.BertForSequenceClassification(hf.BertConfig(intermediate_size=24, max_position_embeddings=16, **BLOCK))


def distilbert() -> nn.Module:
    return hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(
            vocab_size=WORDS, dim=WIDTH, hidden_dim=24, n_layers=LAYERS, n_heads=2, max_position_embeddings=16,
            **SPECIAL,
        )
    )  # fmt: skip


def t5() -> nn.Module:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=WORDS, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=LAYERS, num_heads=2,
            decoder_start_token_id=0, pad_token_id=2, eos_token_id=1, use_cache=False,
        )
    )  # fmt: skip


def vit() -> nn.Module:
    kept = {name: BLOCK[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    return hf.ViTForImageClassification(hf.ViTConfig(intermediate_size=24, image_size=16, patch_size=8, **kept))


def whisper() -> nn.Module:
    return hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            vocab_size=WORDS, num_mel_bins=8, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
            max_source_positions=10, max_target_positions=16, decoder_start_token_id=0, **SPECIAL,
        )
    )  # fmt: skip


def spoken() -> Inputs:
    return Inputs((), {"input_features": torch.randn(6, 8, 20), "decoder_input_ids": words(5)})


NETWORKS = {
    "gpt2": Net(gpt2, encoded, units=(64, 64)),
    "llama": Net(llama, encoded, units=(24, 24)),
    "mixtral": Net(mixtral, encoded, dtype=torch.float32),
    "opt": Net(opt, encoded, units=(24, 24)),
    "mamba": Net(mamba, encoded),
    "bert": Net(bert, encoded, units=(24, 24, 16)),
    "distilbert": Net(distilbert, encoded, units=(24, 24, 16)),
    "t5": Net(t5, pairs, units=(24, 24, 24, 24)),
    "vit": Net(vit, lambda: Inputs((), {"pixel_values": torch.randn(6, 3, 16, 16)}), units=(24, 24)),
    "whisper": Net(whisper, spoken, units=(16, 16, 24, 24, 24, 24)),
}

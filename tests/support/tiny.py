"""Phi-3 models small enough to answer in milliseconds, their weights a formula: the same bits everywhere."""

import copy
import math
import shutil
import zlib
from pathlib import Path

import torch
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

LOGIT_SCALE = 2.5


def build(**config: object) -> Phi3ForCausalLM:
    """A model of two layers, float32, on the CPU."""
    sizes: dict[str, object] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": None,
        "attn_implementation": "eager",
    }
    # Phi3Config writes into the dictionaries it is given.
    model = Phi3ForCausalLM(Phi3Config(**copy.deepcopy(sizes | config))).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
                continue
            unit = math.sqrt(3) if "embed_tokens" in name else math.sqrt(3 / weight.shape[1])
            weight.copy_(_hashed(name, weight.shape) * unit * (LOGIT_SCALE if "lm_head" in name else 1.0))
    return model


def golden() -> Phi3ForCausalLM:
    """The model that group_beam.json was made with."""
    return build(
        vocab_size=48,
        max_position_embeddings=128,
        original_max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def save(folder: Path, tokenizer: Path) -> None:
    """Write a checkpoint into `folder`, with the tokenizer of the one in the folder `tokenizer`."""
    model = build(
        vocab_size=49152,
        max_position_embeddings=8192,
        original_max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=[0, 2],
        pad_token_id=0,
    )
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[0, 2], pad_token_id=0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)


def _hashed(name: str, shape: torch.Size) -> torch.Tensor:
    """Uniform numbers in [-1, 1), float64, from integer arithmetic alone."""
    x = torch.arange(math.prod(shape), dtype=torch.int64) * 0x9E3779B1 + zlib.crc32(name.encode())
    for _ in range(2):
        x = x % 2**32
        x = (x ^ (x >> 16)) * 0x45D9F3B
    x = x % 2**32
    return ((x ^ (x >> 16)).double() / 2**31 - 1).reshape(shape)

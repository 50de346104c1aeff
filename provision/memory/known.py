"""Published models by their short names: the fields of their config.json, as data.

Each was read from the config.json of the named repository on https://huggingface.co.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _config(
    kind: str, vocabulary: int, hidden: int, intermediate: int, layers: int, heads: int,
    kv_heads: int, positions: int, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions,
        **more,
    }


def _qwen3(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, *, tied: bool = False
) -> dict[str, Any]:
    return _config(
        "qwen3", 151936, hidden, intermediate, layers, heads, kv_heads, 40960,
        head_dim=128, tie_word_embeddings=tied,
    )  # fmt: skip


def _qwen3_moe(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, *, width: int
) -> dict[str, Any]:
    return _config(
        "qwen3_moe", 151936, hidden, intermediate, layers, heads, kv_heads, 40960,
        head_dim=128, tie_word_embeddings=False, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=width, decoder_sparse_step=1, mlp_only_layers=[],
    )  # fmt: skip


#: Short name → (repository, fields).
KNOWN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B", _qwen3(1024, 3072, 28, 16, 8, tied=True)),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B", _qwen3(2048, 6144, 28, 16, 8, tied=True)),
    "qwen3-4b": ("Qwen/Qwen3-4B", _qwen3(2560, 9728, 36, 32, 8, tied=True)),
    "qwen3-8b": ("Qwen/Qwen3-8B", _qwen3(4096, 12288, 36, 32, 8)),
    "qwen3-14b": ("Qwen/Qwen3-14B", _qwen3(5120, 17408, 40, 40, 8)),
    "qwen3-32b": ("Qwen/Qwen3-32B", _qwen3(5120, 25600, 64, 64, 8)),
    "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B", _qwen3_moe(2048, 6144, 48, 32, 4, width=768)),
    "qwen3-235b-a22b": ("Qwen/Qwen3-235B-A22B", _qwen3_moe(4096, 12288, 94, 64, 4, width=1536)),
    "qwen2.5-0.5b": (
        "Qwen/Qwen2.5-0.5B",
        _config("qwen2", 151936, 896, 4864, 24, 14, 2, 32768, tie_word_embeddings=True),
    ),
    "qwen2.5-7b": ("Qwen/Qwen2.5-7B", _config("qwen2", 152064, 3584, 18944, 28, 28, 4, 131072)),
    "qwen2.5-32b": ("Qwen/Qwen2.5-32B", _config("qwen2", 152064, 5120, 27648, 64, 40, 8, 131072)),
    "qwen2.5-72b": ("Qwen/Qwen2.5-72B", _config("qwen2", 152064, 8192, 29568, 80, 64, 8, 131072)),
    "llama-2-7b": (
        "meta-llama/Llama-2-7b-hf",
        _config("llama", 32000, 4096, 11008, 32, 32, 32, 4096),
    ),
    "llama-2-13b": (
        "meta-llama/Llama-2-13b-hf",
        _config("llama", 32000, 5120, 13824, 40, 40, 40, 4096),
    ),
    "llama-65b": (
        "huggyllama/llama-65b",
        _config("llama", 32000, 8192, 22016, 80, 64, 64, 2048),
    ),
    "llama-3.1-8b": (
        "meta-llama/Llama-3.1-8B",
        _config("llama", 128256, 4096, 14336, 32, 32, 8, 131072),
    ),
    "llama-3.1-70b": (
        "meta-llama/Llama-3.1-70B",
        _config("llama", 128256, 8192, 28672, 80, 64, 8, 131072),
    ),
    "mistral-7b": (
        "mistralai/Mistral-7B-v0.1",
        _config("mistral", 32000, 4096, 14336, 32, 32, 8, 32768),
    ),
    "mixtral-8x7b": (
        "mistralai/Mixtral-8x7B-v0.1",
        _config(
            "mixtral", 32000, 4096, 14336, 32, 32, 8, 32768,
            num_local_experts=8, num_experts_per_tok=2,
        ),
    ),
    "gemma-2b": (
        "google/gemma-2b",
        _config("gemma", 256000, 2048, 16384, 18, 8, 1, 8192, head_dim=256),
    ),
    "gemma-7b": (
        "google/gemma-7b",
        _config("gemma", 256000, 3072, 24576, 28, 16, 16, 8192, head_dim=256),
    ),
}  # fmt: skip

#: A bare size stands for one of the models above, which the answer names.
SIZES: Mapping[str, str] = {
    "0.6b": "qwen3-0.6b",
    "1.7b": "qwen3-1.7b",
    "4b": "qwen3-4b",
    "7b": "qwen2.5-7b",
    "8b": "qwen3-8b",
    "13b": "llama-2-13b",
    "14b": "qwen3-14b",
    "32b": "qwen3-32b",
    "65b": "llama-65b",
    "70b": "llama-3.1-70b",
    "72b": "qwen2.5-72b",
}

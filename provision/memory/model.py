"""A model's tensors from its config.json alone: every weight's shape, and so an exact count. Pure.

Each family below is one of transformers' classes; the shapes are those that its ``__init__`` makes
(https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models). A test holds the
counts to the classes themselves, built without memory on torch's meta device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the class of one ``model_type`` does differently from Llama's.

    ``qkv_bias``, ``o_bias``, ``mlp_bias``: True, False, or the config's field that decides.
    ``norms``: how many RMSNorms a layer has. ``fp32_norm``: they multiply their weight in fp32, and
    keep that product. ``default_head_dim``: where a config has none; 0 means hidden_size divided by
    num_attention_heads.
    """

    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: bool = False
    norms: int = 2
    fp32_norm: bool = False
    softcap: bool = False
    tied: bool = False
    default_head_dim: int = 0
    experts: str = ""
    expert_width: str = ""


_BIAS = "attention_bias"
FAMILIES: Mapping[str, Family] = {
    "llama": Family(qkv_bias=_BIAS, o_bias=_BIAS, mlp_bias="mlp_bias"),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qkv_bias=_BIAS, o_bias=_BIAS, qk_norm=True, default_head_dim=128),
    "gemma": Family(
        qkv_bias=_BIAS, o_bias=_BIAS, fp32_norm=True, tied=True, default_head_dim=256
    ),
    "gemma2": Family(
        qkv_bias=_BIAS, o_bias=_BIAS, fp32_norm=True, tied=True, default_head_dim=256,
        norms=4, softcap=True,
    ),
    "mixtral": Family(experts="num_local_experts", expert_width="intermediate_size"),
    "qwen3_moe": Family(
        qkv_bias=_BIAS, o_bias=_BIAS, qk_norm=True,
        experts="num_experts", expert_width="moe_intermediate_size",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One parameter tensor. ``linear``: the weight of an nn.Linear (shape: out, in)."""

    name: str
    shape: tuple[int, ...]
    linear: bool = False

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def leaf(self) -> str:
        """The module's own name, as LoRA's target_modules gives it: q_proj."""
        return self.name.split(".")[-2] if "." in self.name else self.name


@dataclass(frozen=True, kw_only=True)
class Model:
    """A causal language model's sizes, and its tensors in the order of ``model.parameters()``.

    ``sparse`` are the layers with experts, ``expert_width`` their intermediate size; 0 without.
    """

    name: str
    family: Family
    kind: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    tied: bool
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    sparse: frozenset[int] = frozenset()
    weights: tuple[Weight, ...] = ()

    @property
    def parameters(self) -> int:
        """All parameters; tied embeddings once."""
        return sum(weight.numel for weight in self.weights)

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key (or value) heads."""
        return self.kv_heads * self.head_dim


class _Config:
    """A config.json, and errors that name what is wrong in it."""

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self.config, self.source = config, source

    def size(self, field: str, default: int | None = None) -> int:
        """A positive integer; ``default`` where the field is absent or null."""
        value = self.config.get(field)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"{self.source}: {field}",
                found="no such field" if value is None else repr(value),
                expected="a positive number",
                remedy="use the config.json that came with the model",
            )
        return value

    def flag(self, which: bool | str) -> bool:
        """True or False, or the config's own field (absent: off)."""
        return bool(self.config.get(which)) if isinstance(which, str) else which


def parse_model(config: Mapping[str, Any], name: str, source: str) -> Model:
    """A model from its config.json. ``source``: what an error calls the file.

    Raises ConfigError for an architecture that is not in FAMILIES, or a field that is missing.
    """
    kind = str(config.get("model_type", "no model_type"))
    if kind not in FAMILIES:
        raise ConfigError(
            f"{source}: model_type",
            found=kind,
            expected=", ".join(FAMILIES),
            remedy="plan with the config of a model of the same shape among these",
        )
    family, read = FAMILIES[kind], _Config(config, source)
    hidden, heads = read.size("hidden_size"), read.size("num_attention_heads")
    layers = read.size("num_hidden_layers")
    sparse = _sparse_layers(config, layers) if family.experts else frozenset[int]()
    model = Model(
        name=name,
        family=family,
        kind=kind,
        layers=layers,
        hidden=hidden,
        intermediate=read.size("intermediate_size"),
        heads=heads,
        kv_heads=read.size("num_key_value_heads", heads if kind == "llama" else None),
        head_dim=read.size("head_dim", family.default_head_dim or max(1, hidden // heads)),
        vocabulary=read.size("vocab_size"),
        positions=read.size("max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        experts=read.size(family.experts) if sparse else 0,
        experts_per_token=read.size("num_experts_per_tok") if sparse else 0,
        expert_width=read.size(family.expert_width) if sparse else 0,
        sparse=sparse,
    )
    return Model(**{**model.__dict__, "weights": _weights(model, read)})


def _sparse_layers(config: Mapping[str, Any], layers: int) -> frozenset[int]:
    """As Qwen3MoeDecoderLayer chooses; Mixtral has neither field, so all of them."""
    dense, step = config.get("mlp_only_layers") or (), int(config.get("decoder_sparse_step") or 1)
    return frozenset(n for n in range(layers) if n not in dense and (n + 1) % step == 0)


def _weights(model: Model, read: _Config) -> tuple[Weight, ...]:
    found = [Weight(name="embed_tokens.weight", shape=(model.vocabulary, model.hidden))]
    for number in range(model.layers):
        found += _layer(model, read, number)
    found.append(Weight(name="norm.weight", shape=(model.hidden,)))
    if not model.tied:
        shape = (model.vocabulary, model.hidden)
        found.append(Weight(name="lm_head.weight", shape=shape, linear=True))
    return tuple(found)


def _layer(model: Model, read: _Config, number: int) -> list[Weight]:
    family, prefix = model.family, f"layers.{number}."
    hidden, query, key = model.hidden, model.query, model.key

    def linear(name: str, out: int, width: int, bias: bool | str = False) -> list[Weight]:
        made = [Weight(name=f"{prefix}{name}.weight", shape=(out, width), linear=True)]
        return made + [Weight(name=f"{prefix}{name}.bias", shape=(out,))] * read.flag(bias)

    def plain(name: str, *shape: int) -> Weight:
        return Weight(name=f"{prefix}{name}", shape=shape)

    made = linear("self_attn.q_proj", query, hidden, family.qkv_bias)
    made += linear("self_attn.k_proj", key, hidden, family.qkv_bias)
    made += linear("self_attn.v_proj", key, hidden, family.qkv_bias)
    made += linear("self_attn.o_proj", hidden, query, family.o_bias)
    if family.qk_norm:
        made += [plain(f"self_attn.{n}_norm.weight", model.head_dim) for n in ("q", "k")]
    if number in model.sparse:
        # One tensor for all experts, and a router that is no nn.Linear either.
        made.append(
            plain("mlp.experts.gate_up_proj", model.experts, 2 * model.expert_width, hidden)
        )
        made.append(plain("mlp.experts.down_proj", model.experts, hidden, model.expert_width))
        made.append(plain("mlp.gate.weight", model.experts, hidden))
    else:
        for name in ("gate_proj", "up_proj"):
            made += linear(f"mlp.{name}", model.intermediate, hidden, family.mlp_bias)
        made += linear("mlp.down_proj", hidden, model.intermediate, family.mlp_bias)
    return made + [plain(f"norm{n}.weight", hidden) for n in range(family.norms)]

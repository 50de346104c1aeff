"""What is asked of the planner: a model, a way to train it, and on how many GPUs. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.errors import ConfigError
from provision.memory.model import Model, Weight

METHODS = ("full", "lora", "qlora")
OBJECTIVES = ("sft", "orpo", "pretrain")
OFFLOADS = ("none", "optimizer", "all")
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
PRECISIONS = ("bf16", "fp16", "fp32")

#: nf4 with double quantisation, bytes a weight: 4 bits, an 8-bit scale for each block of 64, and an
#: fp32 one for each 256 of those (https://arxiv.org/abs/2305.14314, section 3).
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True, kw_only=True)
class MemorySpec:
    """One run to plan. ``gpus`` are a host's, ``nodes`` the hosts; ``batch`` a GPU's rows at once.

    ``reduce_bucket`` is in elements, as in zero_configs/ for stages 1 and 2. ``accelerator`` cpu
    plans for ranks on the CPU: no CUDA context, and everything is host memory.
    """

    model: Model
    method: str = "lora"
    objective: str = "sft"
    zero: int = 2
    offload: str = "none"
    gpus: int = 1
    nodes: int = 1
    seq: int = 2048
    batch: int = 1
    accum: int = 8
    checkpointing: bool = True
    attention: str = "sdpa"
    precision: str = "bf16"
    lora_rank: int = 8
    lora_targets: str = "all"
    lora_dropout: float = 0.05
    reduce_bucket: int = 200_000_000
    accelerator: str = "cuda"

    @property
    def ranks(self) -> int:
        """Ranks of the run: what torchrun calls the world size."""
        return self.gpus * self.nodes

    @property
    def element(self) -> int:
        """Bytes of a number that is computed with."""
        return 4 if self.precision == "fp32" else 2

    @property
    def tokens(self) -> int:
        """Tokens that one GPU takes at once; ORPO takes an accepted and a rejected row."""
        return self.seq * self.batch * (2 if self.objective == "orpo" else 1)

    @property
    def adapted(self) -> bool:
        """Whether an adapter is trained rather than the weights."""
        return self.method != "full"

    def with_(self, **changes: Any) -> MemorySpec:
        """The same, with these changed."""
        return MemorySpec(**{**self.__dict__, **changes})


def check_spec(spec: MemorySpec) -> MemorySpec:
    """The spec itself; ConfigError for what can't be, or what no trainer could run."""
    for flag, value, known in (
        ("--method", spec.method, METHODS),
        ("--objective", spec.objective, OBJECTIVES),
        ("--zero", spec.zero, (0, 1, 2, 3)),
        ("--offload", spec.offload, OFFLOADS),
        ("--attn", spec.attention, ATTENTION),
        ("--precision", spec.precision, PRECISIONS),
        ("--accelerator", spec.accelerator, ("cuda", "cpu")),
    ):
        if value not in known:
            expected = ", ".join(map(str, known))
            raise ConfigError(flag, found=value, expected=expected, remedy="name one of them")
    for flag, number in (
        ("--gpus", spec.gpus), ("--nodes", spec.nodes), ("--seq", spec.seq),
        ("--batch", spec.batch), ("--accum", spec.accum), ("--lora-rank", spec.lora_rank),
    ):  # fmt: skip
        if number < 1:
            raise ConfigError(flag, found=number, expected="1 or more", remedy="raise it")
    _check_combination(spec)
    return spec


def _check_combination(spec: MemorySpec) -> None:
    model = spec.model
    if spec.seq > model.positions:
        raise ConfigError(
            f"--seq for {model.name}",
            found=spec.seq,
            expected=f"at most {model.positions}, its max_position_embeddings",
            remedy="shorten the rows, or use a model for longer ones",
        )
    if spec.offload == "all" and spec.zero != 3:
        raise ConfigError(
            f"--offload with --zero {spec.zero}",
            found="all",
            expected="none or optimizer",
            remedy="offloading parameters needs --zero 3",
        )
    if spec.offload != "none" and spec.zero == 0:
        raise ConfigError(
            "--offload with --zero 0",
            found=spec.offload,
            expected="none",
            remedy="offloading needs --zero 1, 2 or 3",
        )
    if spec.method == "qlora" and spec.zero == 3:
        raise ConfigError(
            "--method with --zero 3",
            found="qlora",
            expected="full or lora",
            remedy="quantised weights can't be split: use --zero 2",
        )
    if spec.adapted and model.experts and spec.lora_targets == "all":
        raise ConfigError(
            f"--method for {model.name}",
            found=f"{spec.method} on every layer",
            expected="full",
            remedy="its experts are one tensor, which PEFT adapts only without dropout and at a "
            "cost that is not planned here; or name layers with --set target_modules=q_proj,v_proj",
        )
    trained = sum(weight.numel for weight in trained_weights(spec))
    if spec.ranks > trained:
        raise ConfigError(
            "--gpus times --nodes",
            found=f"{spec.ranks:,} ranks",
            expected=f"at most {trained:,}, the parameters that train",
            remedy="use fewer: each needs a part of its own",
        )


def target_layers(spec: MemorySpec) -> tuple[Weight, ...]:
    """The linear layers that get an adapter: PEFT's all-linear (never the output layer), or names.

    Raises ConfigError for a name that is no linear layer of the model.
    """
    linear = [w for w in spec.model.weights if w.linear and not w.name.startswith("lm_head")]
    if spec.lora_targets == "all":
        return tuple(linear)
    names = {name.strip() for name in spec.lora_targets.split(",")}
    missing = names - {weight.leaf for weight in linear}
    if missing:
        raise ConfigError(
            "target_modules",
            found=", ".join(sorted(missing)),
            expected=", ".join(dict.fromkeys(weight.leaf for weight in linear)),
            remedy="name linear layers of the model",
        )
    return tuple(weight for weight in linear if weight.leaf in names)


def trained_weights(spec: MemorySpec) -> tuple[Weight, ...]:
    """The tensors that train, in the order of ``model.parameters()``."""
    if not spec.adapted:
        return spec.model.weights
    made = []
    for layer in target_layers(spec):
        out, width = layer.shape
        name = layer.name.removesuffix(".weight")
        made.append(Weight(name=f"{name}.lora_A", shape=(spec.lora_rank, width), linear=True))
        made.append(Weight(name=f"{name}.lora_B", shape=(out, spec.lora_rank), linear=True))
    return tuple(made)


def frozen_bytes(spec: MemorySpec) -> int:
    """Bytes of the weights that do not train, whole."""
    if not spec.adapted:
        return 0
    if spec.method == "lora":
        return spec.model.parameters * spec.element
    inner = sum(w.numel for w in spec.model.weights if w.linear and w.name != "lm_head.weight")
    return math.ceil(inner * NF4) + (spec.model.parameters - inner) * spec.element


def spec_from_flags(
    spec: MemorySpec, flags: Mapping[str, Any], zero_config: Mapping[str, Any] | None = None
) -> MemorySpec:
    """The spec as a recipe's trainer flags have it, where they say something. Pure.

    Raises ConfigError for a flag whose value is no number where one is needed.
    """
    changes: dict[str, Any] = {}
    for field, flag, kind in (
        ("seq", "model_max_length", int), ("accum", "gradient_accumulation_steps", int),
        ("batch", "per_device_train_batch_size", int), ("lora_rank", "lora_rank", int),
        ("lora_dropout", "lora_dropout", float), ("lora_targets", "target_modules", str),
        ("attention", "attn_implementation", str), ("objective", "objective", str),
    ):  # fmt: skip
        if flags.get(flag) is not None:
            changes[field] = _typed(flag, flags[flag], kind)
    changes["method"] = "lora" if _on(flags.get("use_peft"), True) else "full"
    if flags.get("quantize") == "4bit":  # 8 bits are planned as the 16 that they were made of
        changes["method"] = "qlora"
    asked = flags.get("activation_checkpointing", flags.get("gradient_checkpointing"))
    changes["checkpointing"] = _on(asked, True)
    half = "fp16" if _on(flags.get("fp16"), False) else "fp32"
    changes["precision"] = "bf16" if _on(flags.get("bf16"), True) else half
    bucket = (zero_config or {}).get("zero_optimization", {}).get("reduce_bucket_size")
    if isinstance(bucket, int | float):
        changes["reduce_bucket"] = int(bucket)
    return spec.with_(**changes)


def _on(value: Any, default: bool) -> bool:
    return default if value is None else str(value).lower() in ("true", "1", "yes")


def _typed(flag: str, value: Any, kind: Any) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"--set {flag}",
            found=repr(value),
            expected="a number",
            remedy=f"write it as in --set {flag}=8",
        ) from None

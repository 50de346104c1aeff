"""The memory planner against torch, transformers and DeepSpeed themselves, on the CPU.

bench/memory.py does the same over every stage, offload and precision; here is a thinner selection.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.memory_rank import LiveBytes
from provision.memory.activations import logits_bytes, saved_bytes
from provision.memory.estimate import estimate
from provision.memory.known import KNOWN
from provision.memory.model import FAMILIES, parse_model
from provision.memory.spec import MemorySpec
from provision.memory.state import State
from trainer.orpo import OrpoTrainer

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
    "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
MORE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128},
}


def config_of(kind: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": kind, **SIZES, **MORE.get(kind, {}), **changes}


def built(config: dict[str, Any], **kwargs: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), **kwargs)


def shapes_of(config: dict[str, Any]) -> list[tuple[int, ...]]:
    with torch.device("meta"):
        return sorted(tuple(p.shape) for p in built(config).parameters())


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_the_tensors_that_transformers_makes(name: str) -> None:
    config = dict(KNOWN[name][1])
    assert sorted(w.shape for w in parse_model(config, "x", "x").weights) == shapes_of(config)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False, "num_key_value_heads": 8}, {"attention_bias": True}],
    ids=["tied", "untied", "bias"],
)
def test_counts_are_exact_for_every_family(kind: str, changes: dict[str, Any]) -> None:
    config = config_of(kind, **changes)
    if kind == "qwen2":
        del config["head_dim"]
    assert sorted(w.shape for w in parse_model(config, "x", "x").weights) == shapes_of(config)


@pytest.mark.parametrize("kind", FAMILIES)
def test_fields_that_a_config_may_leave_out(kind: str) -> None:
    config = config_of(kind)
    for field in ("tie_word_embeddings", "head_dim"):
        del config[field]
    assert sorted(w.shape for w in parse_model(config, "x", "x").weights) == shapes_of(config)


def saved_by_torch(model: torch.nn.Module, ids: torch.Tensor) -> int:
    """Bytes that autograd keeps when forward has ended, each storage once, no parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # The loss holds what was kept: no storage is given away and counted twice.
        loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
    assert loss.requires_grad
    return sum(kept.values())


FEW = ("qwen3", "llama", "mistral")
CASES = [
    (kind, attention, checkpointing, dropout)
    for kind in ("qwen3", "llama", "mistral", "qwen2", "gemma", "gemma2", "mixtral", "qwen3_moe")
    for attention in ("sdpa", "eager")
    for checkpointing in (False, True)
    for dropout in (None, 0.0, 0.05)
    if not (kind == "gemma2" and attention == "sdpa")
    if not (kind in MORE and dropout is not None)
    # Checkpointing keeps the same whatever is inside; dropout 0 is one case of what is inside.
    if not (checkpointing and (attention == "eager" or dropout == 0.0 or kind not in FEW))
    if not (dropout == 0.0 and (attention == "eager" or kind not in FEW))
]


@pytest.mark.parametrize(("kind", "attention", "checkpointing", "dropout"), CASES)
def test_activations_are_what_autograd_keeps(
    kind: str, attention: str, checkpointing: bool, dropout: float | None
) -> None:
    config = config_of(kind, num_hidden_layers=2)
    if kind == "qwen2":
        del config["head_dim"]
    model = built(config, dtype=torch.bfloat16, attn_implementation=attention).train()
    if dropout is not None:
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=8, lora_dropout=dropout, target_modules="all-linear"
        )
        model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    asked = MemorySpec(
        model=parse_model(config, "x", "x"),
        method="full" if dropout is None else "lora",
        lora_dropout=dropout or 0.0,
        seq=128,
        attention=attention,
        checkpointing=checkpointing,
        accelerator="cpu",
    )
    logits = 4 + 2 * (kind == "gemma2")  # log-softmax in fp32, and the soft cap's own output
    planned = saved_bytes(asked) + 128 * 2048 * logits
    measured = saved_by_torch(model, torch.randint(2048, (1, 128)))
    assert planned == pytest.approx(measured, rel=0.04)


@pytest.mark.parametrize(("precision", "batch"), [("bf16", 1), ("bf16", 4), ("fp32", 1)])
def test_orpo_logits_by_the_trainers_own_loss(precision: str, batch: int) -> None:
    tokens, vocabulary, rows = 128, 4096, 2 * batch
    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    hidden = torch.randn(rows, tokens, 16, dtype=kind, requires_grad=True)
    head = torch.randn(vocabulary, 16, dtype=kind)
    ids = torch.randint(vocabulary, (rows, tokens))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def network(**_: Any) -> Any:
        return types.SimpleNamespace(logits=hidden @ head.T)

    network.training = True  # type: ignore[attr-defined]
    trainer: Any = types.SimpleNamespace(
        args=types.SimpleNamespace(orpo_beta=0.1), _count=lambda *_, **__: None
    )
    with LiveBytes() as live:
        before = live.now
        OrpoTrainer.compute_loss(trainer, network, inputs).backward()
    config = config_of("qwen3", vocab_size=vocabulary)
    asked = MemorySpec(
        model=parse_model(config, "x", "x"), objective="orpo", seq=tokens, batch=batch,
        precision=precision,
    )  # fmt: skip
    assert logits_bytes(asked) == pytest.approx(live.peak - before, rel=0.02)


#: name → (DeepSpeed's configuration, LoRA, accumulation, checkpointing)
ENGINES = {
    "no ZeRO": (None, False, 1, False),
    "ZeRO-1": ("zero1", False, 2, True),
    "ZeRO-2": ("zero2", False, 2, False),
    "ZeRO-2, LoRA": ("zero2", True, 1, True),
    "ZeRO-2, offload": ("zero2_offload", False, 2, True),
    "ZeRO-3": ("zero3", False, 1, False),
    "ZeRO-3, offload, LoRA": ("zero3_offload", True, 1, False),
}
#: Elements: small enough that buckets do not outweigh the rest of so small a model.
BUCKET = 1_000_000


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, int]]]:
    """What two real ranks counted, case by case."""
    folder = tmp_path_factory.mktemp("engines")
    cases = {}
    for name, (zero, lora, accum, checkpointing) in ENGINES.items():
        flags: dict[str, Any] = {
            "use_peft": lora,
            "gradient_accumulation_steps": accum,
            "activation_checkpointing": checkpointing,
        }
        if zero:
            config = json.loads((ROOT / "zero_configs" / f"{zero}.json").read_text())
            if isinstance(config["zero_optimization"]["reduce_bucket_size"], int):
                config["zero_optimization"]["reduce_bucket_size"] = BUCKET
            (folder / f"{zero}.json").write_text(json.dumps(config))
            flags["deepspeed"] = str(folder / f"{zero}.json")
        cases[name] = {"config": config_of("qwen3"), "seq": 128, "flags": flags}
    (folder / "cases.json").write_text(json.dumps(cases))
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*argv, str(ROOT / "bench" / "memory_rank.py"), str(folder / "cases.json"), str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=800,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return {name: [rank[name] for rank in ranks] for name in cases}


def planned(name: str) -> tuple[State, int]:
    zero, lora, accum, checkpointing = ENGINES[name]
    stage = int(zero[4]) if zero else 0
    away = "all" if stage == 3 else "optimizer"
    found = estimate(
        MemorySpec(
            model=parse_model(config_of("qwen3"), "x", "x"),
            method="lora" if lora else "full",
            zero=stage,
            offload=away if zero and "offload" in zero else "none",
            gpus=2,
            seq=128,
            accum=accum,
            checkpointing=checkpointing,
            reduce_bucket=BUCKET,
            accelerator="cpu",
        )
    )
    return found.state, max(moment.tensors for moment in found.moments) + found.state.host


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ENGINES)
def test_states_are_what_real_engines_hold(
    name: str, engines: dict[str, list[dict[str, int]]]
) -> None:
    state, _ = planned(name)
    most = {key: max(rank[key] or 0 for rank in engines[name]) for key in engines[name][0]}
    assert state.parameters + state.host_parameters == pytest.approx(most["parameters"], rel=0.02)
    optimizer = state.optimizer + state.host_optimizer
    assert optimizer == pytest.approx(most["master"] + most["moments"], rel=0.02)
    if not state.host_gradients:
        carried = state.carried if ENGINES[name][0] == "zero2" else 0
        assert state.whole - carried == pytest.approx(most["gradients"], rel=0.02)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ENGINES)
def test_peaks_are_what_real_ranks_reach(
    name: str, engines: dict[str, list[dict[str, int]]]
) -> None:
    _, peak = planned(name)
    measured = max(rank["peak"] for rank in engines[name])
    assert peak == pytest.approx(measured, rel=0.1)

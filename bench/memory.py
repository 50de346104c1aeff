"""The memory planner beside what real ranks take, and beside other estimators, case by case.

    python bench/memory.py --python ~/.zerofleet/current/bin/python          # two ranks on this CPU
    python bench/memory.py --python ~/.zerofleet/current/bin/python --gpu    # this host's GPUs

``--python`` is that of a deployed environment. On the CPU: bytes of every storage alive, small
models, every stage, offload and precision, full and LoRA. With ``--gpu``: torch's
max_memory_reserved, models of 0.6 to 8 billion parameters with random weights (the larger ones only
where the plan says that they fit).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from provision.memory.estimate import FRAGMENTATION, estimate  # noqa: E402
from provision.memory.known import KNOWN  # noqa: E402
from provision.memory.model import parse_model  # noqa: E402
from provision.memory.spec import MemorySpec  # noqa: E402

STAGES = ("no ZeRO", "zero1", "zero2", "zero3", "zero1_offload", "zero2_offload", "zero3_offload")
SMALL: dict[str, Any] = {
    "model_type": "qwen3", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768,
    "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
    "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
#: Elements a bucket in the CPU's cases: the shipped 2e8 would be all that so small a model shows.
BUCKET = 1_000_000
GPU_CASES = [
    ("qwen3-0.6b", "zero1", False, True), ("qwen3-0.6b", "zero2", False, False),
    ("qwen3-0.6b", "zero3", False, True), ("qwen3-0.6b", "zero3", True, False),
    ("qwen3-1.7b", "zero1", False, True), ("qwen3-1.7b", "zero2", False, True),
    ("qwen3-1.7b", "zero2", True, True), ("qwen3-1.7b", "zero3", False, False),
    ("qwen3-4b", "zero2", False, True), ("qwen3-4b", "zero2", True, False),
    ("qwen3-4b", "zero3", True, True), ("llama-3.1-8b", "zero2", True, True),
    ("llama-3.1-8b", "zero3", True, True), ("qwen3-8b", "zero3_offload", False, True),
]  # fmt: skip


def make_case(
    config: dict[str, Any], zero: str, folder: Path, *, bucket: int | None, **flags: Any
) -> dict[str, Any]:
    """One case for memory_rank.py; writes its DeepSpeed configuration below ``folder``."""
    if zero != "no ZeRO":
        settings = json.loads((ROOT / "zero_configs" / f"{zero}.json").read_text())
        if bucket and settings["zero_optimization"]["reduce_bucket_size"] != "auto":
            settings["zero_optimization"]["reduce_bucket_size"] = bucket
        (folder / f"{zero}.json").write_text(json.dumps(settings))
        flags["deepspeed"] = str(folder / f"{zero}.json")
    return {"config": config, "zero": zero, "seq": flags.pop("seq"), "flags": flags}


def spec_of(case: dict[str, Any], ranks: int, bucket: int, accelerator: str) -> MemorySpec:
    """The same case for the planner."""
    zero, flags = case["zero"], case["flags"]
    stage = 0 if zero == "no ZeRO" else int(zero[4])
    away = "all" if stage == 3 else "optimizer"
    return MemorySpec(
        model=parse_model(case["config"], "case", "case"),
        method="lora" if flags["use_peft"] else "full",
        zero=stage,
        offload=away if "offload" in zero else "none",
        gpus=ranks,
        seq=case["seq"],
        accum=flags["gradient_accumulation_steps"],
        checkpointing=flags["activation_checkpointing"],
        precision="bf16" if flags["bf16"] else "fp32",
        reduce_bucket=bucket,
        accelerator=accelerator,
    )


def cpu_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Every stage, offload and precision, full and LoRA; accumulation and checkpointing in turn."""
    made = {}
    for number, (zero, bf16, lora) in enumerate(
        (zero, bf16, lora) for zero in STAGES for bf16 in (True, False) for lora in (False, True)
    ):
        name = f"{zero}, {'bf16' if bf16 else 'fp32'}, {'LoRA' if lora else 'full'}"
        made[name] = make_case(
            SMALL, zero, folder, bucket=BUCKET, seq=128, use_peft=lora, bf16=bf16,
            gradient_accumulation_steps=1 + number // 2 % 2,
            activation_checkpointing=number % 4 < 2,
        )  # fmt: skip
    return made


def gpu_cases(folder: Path, ranks: int, room: int) -> dict[str, dict[str, Any]]:
    """GPU_CASES, without those that are planned not to fit into ``room`` bytes."""
    made = {}
    for model, zero, lora, checkpointing in GPU_CASES:
        kept = "checkpointing" if checkpointing else "all kept"
        case = make_case(
            dict(KNOWN[model][1]), zero, folder, bucket=None, seq=2048, use_peft=lora, bf16=True,
            gradient_accumulation_steps=2, activation_checkpointing=checkpointing,
        )  # fmt: skip
        name = f"{model}, {zero}, {'LoRA' if lora else 'full'}, {kept}"
        needs = estimate(spec_of(case, ranks, 200_000_000, "cuda")).peak.total
        if needs < 0.95 * room:
            made[name] = case
        else:
            print(f"left out: {name}: {needs / 1e9:.0f} GB planned", file=sys.stderr)
    return made


def run_cases(
    cases: dict[str, dict[str, Any]], folder: Path, python: str, ranks: int, accelerator: str
) -> list[dict[str, Any]]:
    """What every rank counted; progress goes to stderr."""
    (folder / "cases.json").write_text(json.dumps(cases))
    argv = [python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    argv += [str(ROOT / "bench" / "memory_rank.py"), str(folder / "cases.json"), str(folder)]
    environ = {**os.environ, "DS_ACCELERATOR": accelerator, "OMP_NUM_THREADS": "1"}
    subprocess.run(argv, cwd=ROOT, env=environ, check=True, stdout=sys.stderr)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def show(
    cases: dict[str, dict[str, Any]], found: list[dict[str, Any]], bucket: int, accelerator: str
) -> None:
    """A line a case: measured, planned, and the two other estimators, in percent of measured."""
    print("| case | states MB | off by | peak MB | off by | DeepSpeed's | accelerate's |")
    print("|---|---|---|---|---|---|---|")
    for name, case in cases.items():
        most = {k: max(r[name][k] or 0 for r in found) for k in found[0][name]}
        plan = estimate(spec_of(case, len(found), bucket, accelerator))
        state = plan.state
        states = state.parameters + state.host_parameters + state.optimizer + state.host_optimizer
        held = most["parameters"] + most["master"] + most["moments"]
        peak = max(moment.tensors for moment in plan.moments)
        measured = most["peak"]
        if accelerator == "cuda":
            peak, measured = int(peak * (1 + FRAGMENTATION)), most["cuda_reserved"]
        else:
            peak += state.host
        theirs = [
            f"{most[k] / measured - 1:+.0%}" if most[k] else "–"
            for k in ("deepspeed", "accelerate")
        ]
        cells = [
            name, f"{held / 1e6:,.2f}", f"{states / held - 1:+.2%}", f"{measured / 1e6:,.2f}",
            f"{peak / measured - 1:+.1%}", *theirs,
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="a deployed environment's Python")
    parser.add_argument("--gpu", action="store_true", help="on this host's GPUs")
    parser.add_argument("--ranks", type=int, default=0, help="default: 2, or with --gpu every GPU")
    args = parser.parse_args()
    accelerator, bucket, ranks = "cpu", BUCKET, args.ranks or 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.gpu:
            asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
            sizes = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
            accelerator, bucket, ranks = "cuda", 200_000_000, args.ranks or len(sizes)
            cases = gpu_cases(folder, ranks, min(map(int, sizes)) << 20)
        else:
            cases = cpu_cases(folder)
        found = run_cases(cases, folder, args.python, ranks, accelerator)
        show(cases, found, bucket, accelerator)


if __name__ == "__main__":
    main()

"""Does training come out right? Every objective, ZeRO stage, offload, precision, full and LoRA.

    cd CHECKOUT && PYTHON -m bench.matrix              # everything: 192 cells
    cd CHECKOUT && PYTHON -m bench.matrix --thin       # what the tests run, minutes
    cd CHECKOUT && PYTHON -m bench.matrix --only sft,zero3,lora

PYTHON is that of a deployed environment. Real ranks over gloo on this machine's CPU, and for each
case, by the trainer's own entry point:

    split    2 ranks x accumulation 2 against 1 rank x accumulation 4: the largest difference of a
             step's loss. Same rows, same step: only the order of additions differs.
    resumed  the steps after a checkpoint against those of the run that was not stopped; the ranks
             have folders of their own, as hosts without a shared file system have
    reload   logits of the saved weights, loaded anew, against those of the engine that trained
    curve    losses against those of the same case without ZeRO: what ZeRO may not change

The ranks are forked from a process that has imported everything, so a run takes about two seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from bench.forked import load_all, run_ranks

ROOT = Path(__file__).resolve().parent.parent
ZERO = ("zero0", *sorted(path.stem for path in (ROOT / "zero_configs").glob("zero?*.json")))
OBJECTIVES = ("sft", "orpo", "pretrain")
#: Two steps an epoch, three epochs; the checkpoint lies in the middle of the second.
STEPS, SAVED = 6, 3
#: The largest difference that passes. bf16 keeps 8 bits of a number, and ranks that add in another
#: order round otherwise; whoever divides a loss or a gradient wrongly is off by far more.
TOLERANCE = {
    "fp32": {"split": 1e-4, "resumed": 1e-5, "reload": 1e-4, "curve": 1e-4},
    "bf16": {"split": 2e-2, "resumed": 1e-5, "reload": 1e-2, "curve": 3e-2},
}
COMMON: dict[str, Any] = {
    "model_max_length": 96,
    "max_steps": STEPS,
    "max_train_samples": 8,
    "warmup_steps": 0,
    "per_device_train_batch_size": 1,
    "learning_rate": "2e-2",
    "lora_dropout": 0,
    "save_steps": SAVED,
    "save_strategy": "steps",
    "report_to": "none",
}
#: Of pretraining: as many documents as fill EVERY blocks, so that each step has the same rows.
BLOCK, EVERY = 96, 8
PRETRAIN = {"block_size": BLOCK, "max_train_samples": 1000}


#: As run_ranks: (objective, flags, ranks, folder) → None, or why it failed.
Train = Callable[[str, list[str], int, Path], str | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cell of the matrix."""

    objective: str
    zero: str
    lora: bool
    precision: str
    checkpointing: bool

    @property
    def name(self) -> str:
        """The cell in words, as ``--only`` matches them."""
        parts = [self.objective, self.zero, "lora" if self.lora else "full", self.precision]
        return ",".join([*parts, "recompute" if self.checkpointing else "keep"])

    @property
    def without_zero(self) -> Case:
        """The case that ``curve`` compares with."""
        fields = {**vars(self), "zero": "zero0"}
        return Case(**fields)

    def argv(self, model: Path, folder: Path, **changes: Any) -> list[str]:
        """The trainer's flags."""
        flags: dict[str, Any] = {
            "model_name_or_path": model,
            "train_file_dir": model.parent / f"{self.objective}.jsonl",
            "output_dir": folder / "host{rank}",
            **COMMON,
            **(PRETRAIN if self.objective == "pretrain" else {}),
            "use_peft": str(self.lora).lower(),
            "bf16": str(self.precision == "bf16").lower(),
            "activation_checkpointing": str(self.checkpointing).lower(),
            **changes,
        }
        if not self.lora:
            flags["learning_rate"] = "2e-3"
        if self.zero != "zero0":
            flags["deepspeed"] = ROOT / "zero_configs" / f"{self.zero}.json"
        return [text for key, value in flags.items() for text in (f"--{key}", str(value))]


def all_cases() -> Iterator[Case]:
    """Every cell."""
    for objective, zero, lora, precision, checkpointing in product(
        OBJECTIVES, ZERO, (False, True), ("fp32", "bf16"), (False, True)
    ):
        yield Case(
            objective=objective,
            zero=zero,
            lora=lora,
            precision=precision,
            checkpointing=checkpointing,
        )


def thin(cases: list[Case]) -> list[Case]:
    """Every stage in fp32, LoRA with recomputation under ZeRO-3, all of it offloaded in bf16.

    Of the other objectives one each: what differs is their loss and their rows.
    """
    others = {"orpo": ("zero2", True, "fp32", False), "pretrain": ("zero3", False, "fp32", True)}

    def wanted(case: Case) -> bool:
        if case.objective in others:
            cell = (case.zero, case.lora, case.precision, case.checkpointing)
            return cell == others[case.objective]
        if not case.lora:
            return case.precision == "fp32" and not (case.checkpointing or "offload" in case.zero)
        fits = {("zero3", "fp32"), ("zero3_offload", "bf16")}
        return case.checkpointing and (case.zero, case.precision) in fits

    return [case for case in cases if wanted(case)]


def read_losses(folder: Path) -> dict[int, float]:
    """Loss by step, of a run's record."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["event"] == "step"}


def furthest(a: dict[int, float], b: dict[int, float]) -> float:
    """The largest difference over the steps of ``b``; infinite when one is missing in ``a``."""
    return max((abs(a.get(step, float("inf")) - loss) for step, loss in b.items()), default=9.9)


def measure(
    case: Case, model: Path, folder: Path, curves: dict[Case, dict[int, float]], train: Train
) -> dict[str, Any]:
    """The case's four figures, or ``error``."""
    whole, single, rest = folder / "whole", folder / "single", folder / "rest"
    checkpoint = whole / "host{rank}" / f"checkpoint-{SAVED}"
    runs = (
        (whole, 2, {"gradient_accumulation_steps": 2}),
        (single, 1, {"gradient_accumulation_steps": 4, "save_strategy": "no"}),
        (
            rest,
            2,
            {
                "gradient_accumulation_steps": 2,
                "resume_from_checkpoint": checkpoint,
                "save_strategy": "no",
            },
        ),
    )
    for place, ranks, changes in runs:
        error = train(case.objective, case.argv(model, place, **changes), ranks, place)
        if error:
            return {"error": f"{place.name}: {error}"}
    losses = curves[case] = read_losses(whole)
    found = {
        "split": furthest(read_losses(single), losses),
        "resumed": furthest(losses, read_losses(rest)),
        "reload": json.loads((whole / "logits.json").read_text())["difference"],
        "fell": losses[1] + losses[2] - losses[STEPS - 1] - losses[STEPS],
    }
    if case.without_zero in curves and case.zero != "zero0":
        found["curve"] = furthest(curves[case.without_zero], losses)
    return found


def failed(case: Case, found: dict[str, Any]) -> list[str]:
    """What of a case's figures is beyond its tolerance, in words."""
    if "error" in found:
        return [found["error"]]
    limits = TOLERANCE[case.precision]
    wrong = [f"{key} {found[key]:.1e}" for key in limits if not found.get(key, 0.0) <= limits[key]]
    return wrong + ([] if found["fell"] > 0 else [f"the loss rose by {-found['fell']:.3f}"])


def make_data(folder: Path, tokenizer: Any) -> None:
    """One file of rows for each objective, all of the examples' conversations."""
    lines = (ROOT / "examples" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    turns = [
        {turn["from"]: turn["value"] for turn in reversed(json.loads(line)["conversations"])}
        for line in lines
    ]
    pairs = [
        {"prompt": one["human"], "chosen": one["gpt"], "rejected": other["gpt"]}
        for one, other in pairwise(turns)
        if one["gpt"] != other["gpt"]
    ]
    texts, tokens = [], 0
    for turn in turns:
        tokens += len(tokenizer(turn["gpt"])["input_ids"]) + 1  # and the end token
        if tokens > BLOCK * EVERY:
            break
        texts.append({"text": turn["gpt"]})
    rows = {"sft": map(json.loads, lines), "orpo": pairs, "pretrain": texts}
    for objective, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{objective}.jsonl").write_text(text, encoding="utf-8")


def run(
    cases: list[Case], folder: Path, train: Train = run_ranks
) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Every case with its figures, as each is done. The folders of those that failed stay."""
    from trainer import tiny

    model = folder / "model"
    tokenizer = tiny.make_tokenizer(str(tiny.EXAMPLES), 1024)
    tokenizer.save_pretrained(model)
    tiny.make_model(tokenizer).save_pretrained(model)
    make_data(folder, tokenizer)
    curves: dict[Case, dict[int, float]] = {}
    for number, case in enumerate(cases):
        place = folder / f"{number:03d}"
        found = measure(case, model, place, curves, train)
        wrong = failed(case, found)
        if not wrong:
            shutil.rmtree(place)
        yield case, {**found, "wrong": wrong}


def main() -> None:
    """Print the table, and how many of its cases hold; exit 1 when one does not."""
    parser = argparse.ArgumentParser(prog="python -m bench.matrix")
    parser.add_argument("--thin", action="store_true", help="few cases: what the tests run")
    parser.add_argument("--only", default="", help="words that a case's name must have")
    parser.add_argument("--json", action="store_true", help="one JSON object a case, and an end")
    parser.add_argument("--folder", help="keep failed cases here (default: nothing is kept)")
    args = parser.parse_args()
    words = [word for word in args.only.split(",") if word]
    cases = [case for case in all_cases() if set(words) <= set(case.name.split(","))]
    cases = thin(cases) if args.thin else cases
    if not cases:
        sys.exit(f"--only {args.only}: no case has all of these words")
    load_all(set(OBJECTIVES))
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for case, found in run(cases, Path(args.folder or scratch)):
            wrong += bool(found["wrong"])
            if args.json:
                print(json.dumps({"case": case.name, **found}), flush=True)
                continue
            figures = (f"{key} {found.get(key, float('nan')):8.1e}" for key in TOLERANCE["fp32"])
            verdict = "; ".join(found["wrong"]) or "ok"
            print(f"{case.name:40} {'  '.join(figures)}  {verdict}", flush=True)
    hold = len(cases) - wrong
    end = {"cases": len(cases), "hold": hold}
    print(json.dumps(end) if args.json else f"{hold} of {len(cases)} hold", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

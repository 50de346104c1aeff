r"""What a model says: ``python -m trainer.sample MODEL [--ask TEXT …] [--max-new-tokens N]``.

MODEL is the output of a run: whole weights, or a LoRA adapter, whose base model is then loaded
under it. Without ``--ask`` lines are read from stdin, one question each, until it ends. Questions
go to stderr, answers to stdout. Greedy, so the same model says the same twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.errors import RequestError


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a run's output. Raises RequestError when it holds neither kind."""
    if (folder / "adapter_config.json").is_file():
        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype="auto")
    elif (folder / "config.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    else:
        raise RequestError(
            f"{folder}: no adapter_config.json and no config.json: not a run's output"
        )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def answer(model: Any, tokenizer: Any, question: str, *, max_new_tokens: int) -> str:
    """What the model answers; without a chat template, how it goes on from the text."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    else:
        inputs = tokenizer(question, return_tensors="pt")
    inputs = inputs.to(model.device)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        ids = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    new = ids[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


def _questions(asked: list[str] | None) -> Iterator[str]:
    for line in asked or sys.stdin:
        if line.strip():
            yield line.strip()


def main() -> None:
    """Answer each question."""
    parser = argparse.ArgumentParser(prog="python -m trainer.sample", description=__doc__)
    parser.add_argument("model", type=Path, help="output folder of a run")
    parser.add_argument("--ask", action="append", help="a question; may be given several times")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    args = parser.parse_args()
    try:
        model, tokenizer = load(args.model)
    except RequestError as error:
        sys.exit(f"sample: {error}")
    for question in _questions(args.ask):
        print(f"> {question}", file=sys.stderr, flush=True)
        print(answer(model, tokenizer, question, max_new_tokens=args.max_new_tokens), flush=True)


if __name__ == "__main__":
    main()

r"""What a model says: ``python -m trainer.sample MODEL [--ask TEXT …] [--max-new-tokens N]``.

MODEL is the output of a run: whole weights, or a LoRA adapter, whose base model is then loaded
under it. Without ``--ask`` lines are read from stdin, a question each, until it ends; each may
refer to what was said before. Questions go to stderr, answers to stdout. Greedy, so the same model
says the same twice.

``--json``: stdin has ``{"ask": TEXT}`` lines; stdout first ``{"ready": …}``, then for each of them
``{"piece": TEXT}`` as it comes, and ``{"answer": TEXT, "tokens": N}``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

from trainer.errors import RequestError
from trainer.model import first_line, set_stops

Messages = list[dict[str, str]]


def load(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a run's output. Raises RequestError when it holds neither kind."""
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise RequestError(
            f"{folder}: no adapter_config.json and no config.json: not a run's output"
        )
    kind = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    try:
        model = kind.from_pretrained(folder, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder} can't be loaded: {first_line(error)}") from error
    set_stops(model, tokenizer)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(device).eval(), tokenizer


class _Pieces(TextStreamer):  # type: ignore[misc]  # transformers has no types for it
    """Hands over whole words of an answer as they come."""

    def __init__(self, tokenizer: Any, on_piece: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_piece = on_piece

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """A piece of the answer."""
        if text:
            self._on_piece(text)


def reply(
    model: Any,
    tokenizer: Any,
    messages: Messages,
    *,
    max_new_tokens: int,
    on_piece: Callable[[str], None] | None = None,
) -> tuple[str, int]:
    """(the answer to a conversation's last message, its tokens).

    Without a chat template: how the model goes on from the text of that message alone.
    """
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    else:
        inputs = tokenizer(messages[-1]["content"], return_tensors="pt")
    inputs = inputs.to(model.device)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        ids = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            streamer=_Pieces(tokenizer, on_piece) if on_piece else None,
        )
    new = ids[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip(), len(new)


def answer(model: Any, tokenizer: Any, question: str, *, max_new_tokens: int) -> str:
    """What the model answers to one question."""
    messages = [{"role": "user", "content": question}]
    return reply(model, tokenizer, messages, max_new_tokens=max_new_tokens)[0]


def _questions(asked: list[str] | None) -> Iterator[str]:
    for line in asked or sys.stdin:
        if line.strip():
            yield line.strip()


def _tell(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def converse(model: Any, tokenizer: Any, lines: Iterator[str], *, max_new_tokens: int) -> None:
    """Answer ``{"ask": …}`` lines, each with what was said before in mind; see above."""
    _tell(ready=type(model).__name__, device=str(model.device))
    messages: Messages = []
    for line in lines:
        messages.append({"role": "user", "content": str(json.loads(line)["ask"])})
        said, tokens = reply(
            model,
            tokenizer,
            messages,
            max_new_tokens=max_new_tokens,
            on_piece=lambda piece: _tell(piece=piece),
        )
        messages.append({"role": "assistant", "content": said})
        _tell(answer=said, tokens=tokens)


def main() -> None:
    """Answer each question."""
    parser = argparse.ArgumentParser(prog="python -m trainer.sample", description=__doc__)
    parser.add_argument("model", type=Path, help="output folder of a run")
    parser.add_argument("--ask", action="append", help="a question; may be given several times")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="JSON lines on stdin and stdout")
    args = parser.parse_args()
    try:
        model, tokenizer = load(args.model)
    except RequestError as error:
        sys.exit(f"sample: {error}")
    if args.json:
        converse(model, tokenizer, iter(sys.stdin.readline, ""), max_new_tokens=args.max_new_tokens)
        return
    messages: Messages = []
    for question in _questions(args.ask):
        messages = [] if args.ask else messages
        print(f"> {question}", file=sys.stderr, flush=True)
        messages.append({"role": "user", "content": question})
        said, _ = reply(model, tokenizer, messages, max_new_tokens=args.max_new_tokens)
        messages.append({"role": "assistant", "content": said})
        print(said, flush=True)


if __name__ == "__main__":
    main()

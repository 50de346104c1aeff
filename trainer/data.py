"""Conversations → tokens and labels, with the loss on answers only.

Not TRL's SFTTrainer: its assistant_only_loss needs ``{% generation %}`` marks in the chat template.
Most models' templates have none; TRL replaces those it knows word for word and refuses the others
(``get_training_chat_template``). Here the answers' places are found by rendering alone, for any
template, and a template for which that can't be done exactly is an error.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trainer.errors import RequestError

#: The label that torch's cross entropy leaves out.
MASKED = -100
#: Stands for an answer when the template around it is wanted. Any text no template contains.
PLACEHOLDER = "[zerofleet: an answer]"

Messages = list[dict[str, str]]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> tuple[np.ndarray, np.ndarray]:
    """(input_ids, labels) of a conversation, int32 and not truncated.

    A token is learned when it begins inside an answer; so a token that holds the last of the
    question and the first of the answer is not.
    """
    if not tokenizer.is_fast:
        raise RequestError(
            f"the tokenizer {type(tokenizer).__name__} can't tell where its tokens begin in the "
            "text: use a model with a fast tokenizer (tokenizer.json)"
        )
    text, spans = answer_spans(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = np.array(encoded["input_ids"], dtype=np.int32)
    begins = np.array([begin for begin, _ in encoded["offset_mapping"]], dtype=np.int64)
    inside = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        inside |= (begins >= start) & (begins < end)
    return ids, np.where(inside, ids, MASKED).astype(np.int32)


def answer_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Messages
) -> tuple[str, list[tuple[int, int]]]:
    """The rendered conversation, and the [start, end) of each answer in it, in characters.

    An answer is what the model has to write after the template's generation prompt: it begins where
    that prompt ends (an empty thinking block that the template inserts is thus part of it) and ends
    with the end-of-turn token. Its end is found from behind: what follows an answer is the same
    whatever the answer says, so it is rendered once more with a placeholder as the answer.
    """
    text = _render(tokenizer, messages)
    final = _after_final_answer(tokenizer)
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = _answer_start(tokenizer, messages[:number], text)
        stand_in = {"role": "assistant", "content": PLACEHOLDER}
        probe = _render(tokenizer, [*messages[:number], stand_in, *messages[number + 1 :]])
        after = probe.rpartition(PLACEHOLDER)[2]
        end = len(text) - len(after)
        if PLACEHOLDER not in probe or not text.endswith(after) or end < start:
            raise RequestError(_NOT_EXACT)
        spans.append((start, end + _stop_length(tokenizer, after, final)))
    return text, spans


_NOT_EXACT = (
    "the chat template renders this conversation so that its answers can't be told exactly from "
    "the rest: give a simpler template with --chat_template FILE"
)


def _answer_start(tokenizer: PreTrainedTokenizerBase, before: Messages, text: str) -> int:
    """Where the text after the generation prompt begins."""
    prompt = _render(tokenizer, before, add_generation_prompt=True)
    if text.startswith(prompt):
        return len(prompt)
    # The prompt may end with more than an answer begins with: some templates open a thinking block
    # in it, and write answers without one.
    if not text.startswith(_render(tokenizer, before)):
        raise RequestError(_NOT_EXACT)
    return _shared(text, prompt)


def _shared(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    differ = (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def _after_final_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes after the last answer of a conversation."""
    stand_in = {"role": "assistant", "content": PLACEHOLDER}
    text = _render(tokenizer, [{"role": "user", "content": "a"}, stand_in])
    return text.rpartition(PLACEHOLDER)[2]


def _stop_length(tokenizer: PreTrainedTokenizerBase, after: str, final: str) -> int:
    """How much of what follows an answer is its end-of-turn token, in characters.

    That is a special token, or several that touch and also end a final answer; what else follows in
    the middle of a conversation belongs to the next question.
    """
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    special.update(tokenizer.all_special_tokens)
    if not special:
        return 0
    one = "(?:" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")"
    both = after[: _shared(after, final)]
    stop = re.match(rf"\s*{one}+", both) or re.match(rf"\s*{one}", after)
    return stop.end() if stop else 0


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool = False
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )
    except jinja2.TemplateError as error:
        raise RequestError(f"the chat template refuses this conversation: {error}") from None


def teaches_to_stop(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template ends a final answer with a special token, so that its end is learned."""
    final = _after_final_answer(tokenizer)
    return _stop_length(tokenizer, final, final) > 0


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the tokenizer's own, and the last that the template writes.

    They differ where a base model got a chat format (eos_token ``<|endoftext|>``, turns that end
    with ``<|im_end|>``), and in models such as Gemma (``<eos>``, ``<end_of_turn>``): generation
    that knows the first alone goes on with the user's next question.
    """
    stops = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if tokenizer.chat_template:
        final = _after_final_answer(tokenizer)
        end = final[: _stop_length(tokenizer, final, final)].strip()
        ids = tokenizer(end, add_special_tokens=False)["input_ids"] if end else []
        stops += [each for each in ids[-1:] if each not in stops]
    return stops


class Collator:
    """Pads rows on the right to the longest of the batch, in steps of 8 for tensor cores."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``rows`` of lengths ≤ n as int64[rows, n] input_ids, attention_mask and labels."""
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), -(-longest // 8) * 8)
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, MASKED),
        }
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][number, :length] = torch.from_numpy(row["input_ids"])
            batch["attention_mask"][number, :length] = 1
            batch["labels"][number, :length] = torch.from_numpy(row["labels"])
        return batch

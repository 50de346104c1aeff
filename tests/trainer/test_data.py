"""trainer/data.py: the loss falls on answers, to the token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trl
from transformers import PreTrainedTokenizerFast

from trainer import data
from trainer.data import MASKED, Collator, answer_spans, encode
from trainer.errors import RequestError
from trainer.features import Features, load_features
from trainer.sft import SftDataArgs, make_encoder

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CONVERSATION = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "m <b>4</b>"},
    {"role": "user", "content": "再见？"},
    {"role": "assistant", "content": "  好的，it is 6."},
]


def learned(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[str]:
    """The runs of unmasked labels, decoded."""
    ids, labels = encode(tokenizer, messages)
    assert ((labels == ids) | (labels == MASKED)).all()
    edges = np.flatnonzero(np.diff(np.r_[False, labels != MASKED, False]))
    return [tokenizer.decode(ids[a:b]) for a, b in edges.reshape(-1, 2)]


def test_exactly_the_answers_and_their_end_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    assert learned(tokenizer, CONVERSATION) == [
        "m <b>4</b><|im_end|>",
        "  好的，it is 6.<|im_end|>",
    ]


def test_a_system_message_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *CONVERSATION[:2]]
    assert learned(tokenizer, messages) == ["m <b>4</b><|im_end|>"]


def test_an_answer_equal_to_the_template_is_still_found(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": "assistant\n"},
        {"role": "assistant", "content": "user"},
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "assistant"},
    ]
    assert learned(tokenizer, messages) == ["user<|im_end|>", "assistant<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "before", "stops"),
    [
        # Template as its models ship it; what it writes between prompt and answer; ends of turn.
        ("qwen2_5", ["", ""], ["<|im_end|>"] * 2),
        ("qwen3", ["", "<think>\n\n</think>\n\n"], ["<|im_end|>"] * 2),
        ("qwen3_instruct_2507", ["", ""], ["<|im_end|>"] * 2),
        ("llama3", ["", ""], ["<|eot_id|>"] * 2),
        ("llama3_1", ["", ""], ["<|eot_id|>"] * 2),
        ("gemma", ["", ""], ["<end_of_turn>"] * 2),
        ("deepseekv3", ["", ""], ["<｜end▁of▁sentence｜>"] * 2),
        # Its generation prompt opens a thinking block that its answers lack.
        ("deepseek_r1_distill", ["", ""], ["<｜end▁of▁sentence｜>"] * 2),
        ("phi3", ["", ""], ["<|end|>"] * 2),
        # Two tokens end a turn.
        ("cohere2", ["", ""], ["<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"] * 2),
        # The last turn ends otherwise than the ones before.
        ("gptoss", ["<|channel|>final<|message|>"] * 2, ["<|end|>", "<|return|>"]),
        # Nothing ends the last turn.
        ("glm4moe", ["\n<think></think>\n"] * 2, ["<|user|>", ""]),
    ],
)
def test_real_models_templates(
    template: str, before: list[str], stops: list[str], tokenizer: PreTrainedTokenizerFast
) -> None:
    text = (TEMPLATES / f"{template}.jinja").read_text()
    special = set(re.findall(r"<[|｜][^|｜<>'\"{}]+[|｜]>|<(?:end|start)_of_turn>", text))
    eos = "<｜end▁of▁sentence｜>" if template.startswith("deepseek") else "<|im_end|>"
    tokenizer.add_special_tokens(
        {"additional_special_tokens": sorted(special), "bos_token": "<s>", "eos_token": eos}
    )
    tokenizer.chat_template = text
    answers = ["m <b>4</b>", "好的，it is 6."]
    messages = [dict(m) for m in CONVERSATION]
    messages[3]["content"] = answers[1]
    expected = [b + a + s for b, a, s in zip(before, answers, stops, strict=True)]
    assert learned(tokenizer, messages) == expected
    assert data.teaches_to_stop(tokenizer) == bool(stops[-1])
    ends = [eos, *re.findall("<[^>]+>", stops[-1])[-1:]]
    assert tokenizer.convert_ids_to_tokens(data.stop_ids(tokenizer)) == list(dict.fromkeys(ends))


def test_reasoning_is_learned_where_the_template_keeps_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = (TEMPLATES / "qwen3.jinja").read_text()
    thought = "<think>\n2 and 2\n</think>\n\n4"
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": thought},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": thought},
    ]
    assert learned(tokenizer, messages) == ["4<|im_end|>", thought + "<|im_end|>"]


def test_a_template_that_hides_where_answers_end_is_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(RequestError, match="--chat_template"):
        answer_spans(tokenizer, CONVERSATION)


def load(path: Path, tokenizer: PreTrainedTokenizerFast, length: int, **changes: Any) -> Features:
    args = SftDataArgs(train_file_dir=str(path), model_max_length=length)
    encoder = make_encoder(tokenizer, args)
    return load_features(
        str(path), "sft", encoder, **{"limit": None, "skip_bad": False, "say": print, **changes}
    )


def test_a_template_that_refuses_a_row_names_the_row(
    tokenizer: PreTrainedTokenizerFast, jsonl: Callable[..., Path]
) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refuses + (tokenizer.chat_template or "")
    row = {"messages": CONVERSATION}
    path = jsonl(row, {**row, "system_prompt": "x"})
    with pytest.raises(RequestError, match=r"rows.jsonl:2: the chat template refuses .*no system"):
        load(path, tokenizer, 99)


def test_long_rows_are_cut_and_rows_without_an_answer_left_out_aloud(
    tokenizer: PreTrainedTokenizerFast, jsonl: Callable[..., Path]
) -> None:
    def row(question: str, answer: str) -> dict[str, object]:
        return {
            "conversations": [
                {"from": "human", "value": question},
                {"from": "gpt", "value": answer},
            ]
        }

    path = jsonl(row("q", "a"), row("q", "word " * 200), row("word " * 200, "a"))
    features = load(path, tokenizer, 64)
    counts = features.counts
    assert (counts.read, counts.cut, counts.dropped) == (3, 2, 1)
    assert [len(r["input_ids"]) for r in features.rows][1] == 64
    assert "2 of 3 rows cut" in str(features)
    assert "1 rows left out" in str(features)
    assert features.tokens == sum(len(r["input_ids"]) for r in features.rows)
    assert len(load(path, tokenizer, 64, limit=1).rows) == 1
    with pytest.raises(RequestError, match="--model_max_length"):
        load(path, tokenizer, 8)


def test_a_bad_row_stops_the_run(
    tokenizer: PreTrainedTokenizerFast, jsonl: Callable[..., Path]
) -> None:
    path = jsonl({"messages": CONVERSATION}, {"messages": []})
    with pytest.raises(RequestError, match=r"rows.jsonl:2: found no answer"):
        load(path, tokenizer, 99)
    features = load(path, tokenizer, 99, skip_bad=True)
    assert (len(features.rows), features.counts.bad) == (1, 1)
    assert "1 bad rows skipped" in str(features)
    lines = [json.dumps({"messages": CONVERSATION})] * 9
    path.write_text("\n".join([*lines[:6], '{"messages": [', *lines[6:]]))
    with pytest.raises(RequestError, match=r"rows.jsonl:7: found invalid JSON"):
        load(path, tokenizer, 99)
    missing = path.with_name("missing.jsonl")  # a file is no row
    with pytest.raises(RequestError, match="no such file"):
        load(missing, tokenizer, 99, skip_bad=True)


def test_the_collator_pads_to_a_multiple_of_8() -> None:
    rows = [
        {"input_ids": np.arange(1, 10, dtype=np.int32), "labels": np.full(9, MASKED, np.int32)},
        {"input_ids": np.array([5, 6], np.int32), "labels": np.array([MASKED, 6], np.int32)},
    ]
    batch = Collator(pad_id=0)(rows)
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        key: (torch.Size([2, 16]), torch.int64) for key in ("input_ids", "attention_mask", "labels")
    }
    assert batch["attention_mask"].sum(1).tolist() == [9, 2]
    assert batch["input_ids"][1].tolist() == [5, 6] + [0] * 14
    assert batch["labels"][1].tolist() == [MASKED, 6] + [MASKED] * 14

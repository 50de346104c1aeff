"""What is learned of a row, by hand, for every format that data comes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from trainer import orpo, pretrain, sft
from trainer.data import MASKED
from trainer.features import TokenRows, load_features

EARLIER = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
ASK = [{"role": "user", "content": "how"}]
#: objective, format, row → of each column of labels, the runs of text that are learned.
CASES: list[tuple[str, str, dict[str, Any], dict[str, list[str]]]] = [
    (
        "sft",
        "ShareGPT",
        {
            "system_prompt": "be kind",
            "conversations": [
                {"from": "human", "value": "hi"},
                {"from": "gpt", "value": "ho"},
                {"from": "human", "value": "how"},
                {"from": "gpt", "value": "so"},
            ],
        },
        {"labels": ["ho<|im_end|>", "so<|im_end|>"]},
    ),
    (
        "sft",
        "messages",
        {"messages": [{"role": "system", "content": "be kind"}, *EARLIER]},
        {"labels": ["ho<|im_end|>"]},
    ),
    (
        "sft",
        "Alpaca",
        {"instruction": "how", "input": "hi", "output": "so", "history": [["hi", "ho"]]},
        {"labels": ["ho<|im_end|>", "so<|im_end|>"]},
    ),
    (
        "orpo",
        "question",
        {
            "question": "how",
            "history": [["hi", "ho"]],
            "response_chosen": "so",
            "response_rejected": "no",
        },
        {"chosen_labels": ["so<|im_end|>"], "rejected_labels": ["no<|im_end|>"]},
    ),
    (
        "orpo",
        "prompt",
        {"prompt": "how", "chosen": "so", "rejected": "no"},
        {"chosen_labels": ["so<|im_end|>"], "rejected_labels": ["no<|im_end|>"]},
    ),
    (
        "orpo",
        "implicit prompt",
        {
            "chosen": [*EARLIER, *ASK, {"role": "assistant", "content": "so"}],
            "rejected": [*EARLIER, *ASK, {"role": "assistant", "content": "no"}],
        },
        {"chosen_labels": ["so<|im_end|>"], "rejected_labels": ["no<|im_end|>"]},
    ),
    (
        "orpo",
        "ShareGPT pair",
        {
            "conversations": [{"from": "human", "value": "how"}],
            "chosen": {"from": "gpt", "value": "so"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"chosen_labels": ["so<|im_end|>"], "rejected_labels": ["no<|im_end|>"]},
    ),
    ("pretrain", "text", {"text": "how so"}, {"labels": ["how so<|im_end|>"]}),
]
MODULES: dict[str, Any] = {"sft": sft, "orpo": orpo, "pretrain": pretrain}


@pytest.mark.parametrize(("objective", "name", "row", "expected"), CASES)
def test_what_is_learned_of_a_row(
    objective: str,
    name: str,
    row: dict[str, Any],
    expected: dict[str, list[str]],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    module = MODULES[objective]
    args = module.OBJECTIVE.data_args(train_file_dir=str(path))
    found = load_features(
        str(path),
        objective,
        module.make_encoder(tokenizer, args),
        limit=None,
        skip_bad=False,
        say=print,
    )
    assert found.counts.formats == {name: 1}
    assert isinstance(found.rows, TokenRows)
    (columns,) = found.rows
    learned = {key: values for key, values in columns.items() if key.endswith("labels")}
    assert {key: spans(tokenizer, values) for key, values in learned.items()} == expected


def spans(tokenizer: PreTrainedTokenizerFast, labels: np.ndarray) -> list[str]:
    """The runs of labels, as text."""
    edges = np.flatnonzero(np.diff(np.r_[False, labels != MASKED, False]))
    return [tokenizer.decode(labels[a:b]) for a, b in edges.reshape(-1, 2)]

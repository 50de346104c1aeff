"""trainer/check_data.py: what a run would make of its rows, without a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import orpo, sft
from trainer.check_data import check, histogram, parse
from trainer.errors import RequestError


def found(objective: Any, tiny: Path, data: Path, *flags: str) -> dict[str, Any]:
    argv = ["--model_name_or_path", str(tiny), "--train_file_dir", str(data), *flags]
    return check(objective, *parse(objective, argv, print), print)


def test_counts_lengths_and_what_is_learned(tiny: Path, jsonl: Callable[..., Path]) -> None:
    turn = {"from": "human", "value": "2+2?"}
    rows = [{"conversations": [turn, {"from": "gpt", "value": "4" * n}]} for n in (1, 400)]
    seen = found(sft.OBJECTIVE, tiny, jsonl(*rows, {"text": "x"}), "--model_max_length", "32")
    assert (seen["rows"], seen["bad"], seen["cut"], seen["dropped"]) == (2, 1, 1, 0)
    assert seen["lengths"]["max"] > 32  # before it is cut
    assert seen["problems"][0]["line"] == 3
    pieces = seen["samples"][0]["texts"][0]["pieces"]
    assert [p["text"] for p in pieces if p["learned"]] == ["4<|im_end|>"]
    assert sum(one["rows"] for one in seen["histogram"]) == 2


def test_of_a_pair_both_answers_are_shown(tiny: Path, jsonl: Callable[..., Path]) -> None:
    pair = {"question": "2+2?", "response_chosen": "4", "response_rejected": "5"}
    (sample,) = found(orpo.OBJECTIVE, tiny, jsonl(pair))["samples"]
    learned = {t["name"]: [p["text"] for p in t["pieces"] if p["learned"]] for t in sample["texts"]}
    assert learned == {"chosen": ["4<|im_end|>"], "rejected": ["5<|im_end|>"]}


def test_a_histogram_has_every_row_and_round_bounds() -> None:
    bins = histogram([1, 5, 100, 2047])
    assert sum(one["rows"] for one in bins) == 4
    assert bins[0]["from"] == 0
    assert bins[-1]["to"] == 2047 or bins[-1]["to"] > 2047
    assert len(bins) <= 12
    assert histogram([]) == []


def test_an_old_flag_that_means_nothing_is_refused(tiny: Path) -> None:
    with pytest.raises(RequestError, match="there is no such flag here"):
        parse(sft.OBJECTIVE, ["--shift_attn", "true"], print)

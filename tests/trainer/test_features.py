"""trainer/features.py: tokens are made once, kept, and made anew when anything changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from trainer.features import Counts, Features, TokenRows, apply_once, tokens_key

ROWS = [{"input_ids": np.arange(n, dtype=np.int32)} for n in (3, 1, 2)]


def test_rows_come_back_as_they_went_in() -> None:
    rows = TokenRows.of(ROWS)
    assert (len(rows), rows.tokens) == (3, 6)
    assert [row["input_ids"].tolist() for row in rows] == [[0, 1, 2], [0], [0, 1]]
    assert rows[-1]["input_ids"].tolist() == [0, 1]
    assert [row["input_ids"].tolist() for row in rows[1:]] == [[0], [0, 1]]
    with pytest.raises(IndexError):
        rows[3]


def test_tokens_are_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> Features:
        made.append(1)
        return Features(rows=TokenRows.of(ROWS), counts=Counts(read=3), tokens=6)

    found = [apply_once(tmp_path, "key", make, print) for _ in range(2)]
    assert len(made) == 1
    for one in found:
        assert (asdict(one.counts), one.tokens) == (asdict(Counts(read=3)), 6)
        assert [r["input_ids"].tolist() for r in one.rows] == [[0, 1, 2], [0], [0, 1]]
    assert apply_once(tmp_path, "other", make, print).digest == found[0].digest
    assert len(made) == 2
    rows = TokenRows.of([*ROWS[:2], {"input_ids": np.arange(1, 3)}])
    moved = Features(rows=rows, counts=Counts(read=3), tokens=6)
    assert apply_once(tmp_path, "moved", lambda: moved, print).digest != found[0].digest


def test_half_written_tokens_are_not_used(tmp_path: Path) -> None:
    def fail() -> Features:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        apply_once(tmp_path, "key", fail, print)
    (tmp_path / "key.new").mkdir()
    whole = Features(rows=TokenRows.of(ROWS), counts=Counts(), tokens=6)
    assert len(apply_once(tmp_path, "key", lambda: whole, print).rows) == 3


def test_the_key_is_of_all_that_decides(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    def key(text: str = "x", objective: str = "sft", **what: Any) -> str:
        path.write_text(json.dumps(text))
        return tokens_key(str(path), objective, {"length": 8, **what}, tokenizer)

    keys = {key("longer"), key("l"), key("l", length=9), key("l", objective="orpo")}
    tokenizer.chat_template = "other"
    keys.add(key("l"))
    tokenizer.bos_token = "<|im_start|>"  # templates write it
    assert len(keys | {key("l")}) == 6


def test_a_tokenizer_written_in_python_has_a_key(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    small, large = ByT5Tokenizer(), ByT5Tokenizer(extra_ids=126)
    assert not small.is_fast
    keys = {tokens_key(str(tmp_path), "pretrain", {}, each) for each in (small, large, small)}
    assert len(keys) == 2

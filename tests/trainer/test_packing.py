"""trainer/packing.py: documents share a row and see nothing of one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.data import MASKED
from trainer.errors import RequestError
from trainer.packing import PackedCollator, pack_blocks, pack_whole, require_apart


def document(*ids: int) -> dict[str, np.ndarray]:
    array = np.array(ids, dtype=np.int32)
    return {"input_ids": array, "labels": array}


def test_blocks_are_filled_and_nothing_is_dropped() -> None:
    blocks = pack_blocks([document(1, 2, 3), document(4, 5, 6, 7), document(8)], 5)
    assert [block["input_ids"].tolist() for block in blocks] == [[1, 2, 3, 4, 5], [6, 7, 8]]
    assert [block["position_ids"].tolist() for block in blocks] == [[0, 1, 2, 0, 1], [0, 1, 0]]
    # The first token of each document, and of what goes on in the next block, is predicted by none.
    M = MASKED  # noqa: N806
    assert [block["labels"].tolist() for block in blocks] == [[M, 2, 3, M, 5], [M, 7, M]]


def test_a_block_without_labels_is_left_out() -> None:
    blocks = pack_blocks([document(1, 2, 3, 4), document(5, 6)], 5)
    assert [block["input_ids"].tolist() for block in blocks] == [[1, 2, 3, 4, 5]]


def test_whole_rows_go_where_least_room_is_left() -> None:
    rows = [document(*range(n)) for n in (3, 6, 4, 5)]
    packed = pack_whole(rows, 10)
    assert sorted(len(row["input_ids"]) for row in packed) == [8, 10]
    assert sum((row["position_ids"] == 0).sum() for row in packed) == 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_document_is_what_it_is_alone(attention: str, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        tiny, dtype=torch.float32, attn_implementation=attention
    ).eval()
    require_apart(model, "cpu")
    documents = [document(*range(10, 20)), document(*range(30, 37))]
    batch = PackedCollator(0)(pack_whole(documents, 17))
    assert batch["input_ids"].shape == (1, 24)
    with torch.no_grad():
        packed = model(**batch, use_cache=False).logits[0]
        for at, one in ((0, documents[0]), (10, documents[1])):
            ids = torch.from_numpy(one["input_ids"]).long()[None]
            alone = model(input_ids=ids).logits[0]
            torch.testing.assert_close(packed[at : at + len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_a_model_that_mixes_documents_is_refused(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    inner = model.forward

    def forward(position_ids: Any = None, **inputs: Any) -> Any:
        return inner(**inputs)  # as a model does that knows no positions

    model.forward = forward
    with pytest.raises(RequestError, match="sees the one before"):
        require_apart(model, "cpu")

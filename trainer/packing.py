"""Several documents in one row, none of which sees another.

Each document's positions start at 0 and there is no attention mask: from that, transformers makes
a mask (sdpa, eager, flex_attention) or sequence lengths (FlashAttention, which wants all rows of a
batch as one) that keep documents apart: masking_utils.find_packed_sequence_indices. A first token
has no label, so nothing is predicted from the document before. Models that keep a state (Mamba,
linear attention) mix documents all the same, so every run proves it on the model that trains.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from trainer.data import MASKED
from trainer.errors import RequestError
from trainer.fit import CountingTrainer

Row = dict[str, np.ndarray]
#: Logits of fp32 agree to about 1e-6, of bf16 to about 1e-2; another document moves them far more.
TOLERANCE = 5e-2


def join(parts: Sequence[Row]) -> Row:
    """Documents as one row: input_ids, labels and position_ids, int32[n]."""
    labels = [np.r_[np.int32(MASKED), part["labels"][1:]] for part in parts]
    return {
        "input_ids": np.concatenate([part["input_ids"] for part in parts]),
        "labels": np.concatenate(labels).astype(np.int32),
        "position_ids": np.concatenate(
            [np.arange(len(p["input_ids"]), dtype=np.int32) for p in parts]
        ),
    }


def pack_whole(rows: Sequence[Row], length: int) -> list[Row]:
    """Whole rows in as few as possible of at most ``length`` tokens, in a fixed order.

    Best fit, longest first (https://en.wikipedia.org/wiki/Best-fit_bin_packing): each row goes
    where it leaves least room.
    """
    order = sorted(range(len(rows)), key=lambda n: (-len(rows[n]["input_ids"]), n))
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for n in order:
        size = len(rows[n]["input_ids"])
        at = bisect_left(room, (size, -1))
        if at == len(room):
            bins.append([])
            room.append((length, len(bins) - 1))
            at = len(room) - 1
        left, chosen = room.pop(at)
        bins[chosen].append(n)
        insort(room, (left - size, chosen))
    return [join([rows[n] for n in sorted(chosen)]) for chosen in bins]


def pack_blocks(documents: Iterable[Row], length: int) -> list[Row]:
    """Documents one after another, cut into blocks of ``length`` tokens; the last may be shorter.

    A document that goes on in the next block begins anew there: its positions start at 0. A block
    without any label (a last one of one token) is left out: its mean loss is no number.
    """
    blocks: list[Row] = []
    parts: list[Row] = []
    room = length
    for document in documents:
        at = 0
        while at < len(document["input_ids"]):
            part = {name: values[at : at + room] for name, values in document.items()}
            parts.append(part)
            at += len(part["input_ids"])
            room -= len(part["input_ids"])
            if not room:
                blocks.append(join(parts))
                parts, room = [], length
    if parts:
        blocks.append(join(parts))
    return [block for block in blocks if (block["labels"] != MASKED).any()]


class PackedCollator:
    """Pads packed rows to the longest of the batch; what is padded is a document without labels."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        """int64[rows, n] input_ids, labels and position_ids (0 throughout the padding)."""
        longest = max(len(row["input_ids"]) for row in rows)
        shape = (len(rows), -(-longest // 8) * 8)
        fill = {"input_ids": self.pad_id, "labels": MASKED, "position_ids": 0}
        batch: dict[str, Any] = {name: torch.full(shape, value) for name, value in fill.items()}
        for number, row in enumerate(rows):
            for name in fill:
                batch[name][number, : len(row[name])] = torch.from_numpy(np.array(row[name]))
        return batch


class PackingTrainer(CountingTrainer):
    """A Trainer of packed rows, that proves on the first step that documents stay apart."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As a Trainer."""
        super().__init__(*args, **kwargs)
        self.add_callback(_Proof(self))

    def count_tokens(self, inputs: dict[str, Any]) -> Any:
        """Tokens without padding: those that have a position, or the first before one that has."""
        if "position_ids" not in inputs:
            return super().count_tokens(inputs)
        placed = inputs["position_ids"] > 0
        return placed.sum() + (placed[:, 1:] & ~placed[:, :-1]).sum()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As a Trainer; without a cache, which would turn off the mask between documents."""
        if "position_ids" in inputs:
            inputs = {**_for_flash(model, inputs), "use_cache": False}
        return super().compute_loss(model, inputs, *args, **kwargs)


def _for_flash(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """All rows of the batch as one: FlashAttention tells documents apart in a single row only."""
    config = getattr(getattr(model, "module", model), "config", None)
    if "flash" not in str(getattr(config, "_attn_implementation", "")):
        return inputs
    return {name: values.reshape(1, -1) for name, values in inputs.items()}


class _Proof(TrainerCallback):
    """Stops a run whose model lets one document see another."""

    def __init__(self, trainer: PackingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs on every rank, because under ZeRO-3 every rank has part of the weights."""
        dataset: Any = self.trainer.train_dataset
        if "position_ids" in dataset[0]:
            require_apart(self.trainer.model_wrapped, args.device)


def require_apart(model: Any, device: Any) -> None:
    """Raise RequestError when a document's logits depend on the document before it."""
    positions = torch.arange(8, device=device).repeat(2)[None]
    training = model.training
    model.eval()
    outputs = []
    with torch.no_grad():
        for first in (3, 7):
            ids = torch.full((1, 16), 5, device=device)
            ids[:, :8] = first
            found = model(input_ids=ids, position_ids=positions, use_cache=False)
            outputs.append(found.logits[:, 8:].float())
    model.train(training)
    difference = (outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max().clamp(min=1)
    if not difference < TOLERANCE:
        raise RequestError(
            "packing: with this model and attention implementation a document sees the one before "
            f"it (its logits differ by {difference:.2g}): use --packing false, or another "
            "--attn_implementation"
        )

"""trainer/orpo.py: loss and gradient against numbers made by hand, and pairs that do not fit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from trainer.data import MASKED
from trainer.errors import RequestError
from trainer.orpo import (
    OrpoDataArgs,
    OrpoTrainer,
    PairCollator,
    log_odds_ratio,
    make_encoder,
    mean_logps,
    token_logps,
)
from trainer.rows import Row

ASK = [{"role": "user", "content": "What is 2+2?"}]


def pair(chosen: str, rejected: str, ask: str = "What is 2+2?") -> Row:
    messages = [{"role": "user", "content": ask}]
    return Row("f", 1, messages, chosen=chosen, rejected=rejected, format="prompt")


def test_log_odds_ratio_and_its_gradient_by_hand() -> None:
    # p 0.5 against 0.2: odds 1 against 0.25, a ratio of 4.
    chosen = torch.tensor([math.log(0.5)], requires_grad=True)
    rejected = torch.tensor([math.log(0.2)], requires_grad=True)
    ratio = log_odds_ratio(chosen, rejected)
    assert ratio.item() == pytest.approx(math.log(4), abs=1e-6)
    ratio.sum().backward()
    # d log(p / (1 - p)) / d log p = 1 / (1 - p)
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(1 / 0.5, abs=1e-5)
    assert rejected.grad.item() == pytest.approx(-1 / 0.8, abs=1e-5)


def test_a_model_that_is_sure_gives_finite_numbers() -> None:
    sure = torch.zeros(1, requires_grad=True)
    ratio = log_odds_ratio(sure, torch.tensor([-50.0]))
    ratio.sum().backward()
    assert torch.isfinite(ratio).all()
    assert sure.grad is not None
    assert torch.isfinite(sure.grad).all()


def test_log_p_counts_each_label_once_and_nothing_else() -> None:
    # Two words, with p 0.25 and 0.75 everywhere: label 1, 1, 0 after the first token.
    logits = torch.tensor([0.25, 0.75]).log().expand(1, 4, 2)
    labels = torch.tensor([[MASKED, 1, MASKED, 0]])
    logps = token_logps(logits, labels)
    assert logps.tolist() == [[pytest.approx(math.log(0.75)), 0, pytest.approx(math.log(0.25))]]
    expected = (math.log(0.75) + math.log(0.25)) / 2
    assert mean_logps(logps, labels).item() == pytest.approx(expected)


def test_loss_and_gradient_of_a_pair_by_hand() -> None:
    # Words 0 and 1; a prompt of one word, answers of one: 1 is preferred to 0. Logits after the
    # prompt are (0, ln 3) and (0, ln 2): p(chosen) = 3/4, p(rejected) = 1/3; odds 3 and 1/2.
    free = torch.tensor([math.log(3), math.log(2)], requires_grad=True)

    def network(**inputs: Any) -> Any:
        logits = torch.zeros(2, 2, 2)
        return SimpleNamespace(
            logits=logits.index_put(
                (torch.arange(2), torch.tensor([0, 0]), torch.tensor([1, 1])), free
            )
        )

    batch = {
        "input_ids": torch.tensor([[0, 1], [0, 0]]),
        "attention_mask": torch.ones(2, 2, dtype=torch.int64),
        "labels": torch.tensor([[MASKED, 1], [MASKED, 0]]),
    }
    network.training = True  # type: ignore[attr-defined]
    figures: dict[str, Any] = {}
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(orpo_beta=0.1), _count=lambda _, **found: figures.update(found)
    )
    loss = OrpoTrainer.compute_loss(trainer, network, batch)
    # -log 3/4, and 0.1 x -log sigmoid(log 6) = 0.1 x log 7/6
    assert loss.item() == pytest.approx(math.log(4 / 3) + 0.1 * math.log(7 / 6), abs=1e-6)
    loss.backward()
    # The log odds ratio is the sum of both logits: each gets -0.1 x (1 - sigmoid(log 6)) = -0.1/7,
    # the preferred one also -(1 - 3/4).
    assert free.grad is not None
    assert free.grad.tolist() == pytest.approx([-0.25 - 0.1 / 7, -0.1 / 7], abs=1e-6)
    assert figures["log_odds"].item() == pytest.approx(math.log(6), abs=1e-6)
    assert figures["accuracy"].item() == 1


def test_the_last_answer_alone_is_compared(tokenizer: PreTrainedTokenizerFast) -> None:
    earlier = [*ASK, {"role": "assistant", "content": "Four."}, *ASK]
    row = Row("f", 1, earlier, chosen="Still four.", rejected="Five.", format="prompt")
    columns = make_encoder(tokenizer, OrpoDataArgs(train_file_dir="d"))(row).columns
    assert columns is not None
    for name, answer in (("chosen", "Still four."), ("rejected", "Five.")):
        labels = columns[f"{name}_labels"]
        assert tokenizer.decode(labels[labels != MASKED]) == f"{answer}<|im_end|>"
        assert "Four." in tokenizer.decode(columns[f"{name}_input_ids"])


def test_pairs_that_do_not_fit_are_left_out_never_emptied(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    encode = make_encoder(tokenizer, OrpoDataArgs(train_file_dir="d", model_max_length=64))
    assert encode(pair("a", "b", "word " * 200)).columns is None
    cut = encode(pair("word " * 200, "b"))
    assert cut.cut
    assert cut.columns is not None
    assert len(cut.columns["chosen_input_ids"]) == 64
    assert (cut.columns["chosen_labels"] != MASKED).sum() > 16
    # What differs is beyond the length: nothing is left to prefer.
    assert encode(pair("word " * 200 + "a", "word " * 200 + "b")).columns is None
    with pytest.raises(RequestError, match="leaves no room for answers"):
        make_encoder(tokenizer, OrpoDataArgs(train_file_dir="d", max_prompt_length=2048))


def test_a_batch_is_all_preferred_then_all_others() -> None:
    def row(n: int) -> dict[str, np.ndarray]:
        arrays = {"chosen": np.full(2, n, np.int32), "rejected": np.full(3, -n, np.int32)}
        return {f"{k}_{c}": v for k, v in arrays.items() for c in ("input_ids", "labels")}

    batch = PairCollator(0)([row(1), row(2)])
    assert batch["input_ids"][:, 0].tolist() == [1, 2, -1, -2]
    assert batch["attention_mask"].sum(-1).tolist() == [2, 2, 3, 3]

"""Logits of labelled tokens alone: the same loss, the same gradients."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, BartForCausalLM, GPT2Config, Qwen3Config

from trainer.answers import AnswersOnly, labelled, takes_positions
from trainer.args import SftArgs
from trainer.data import MASKED, Collator
from trainer.sft import SftTrainer

ROWS = [
    {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [MASKED, MASKED, 3, MASKED, 5, 6]},
    {"input_ids": [7, 8, 9], "labels": [MASKED, MASKED, 9]},
]


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(vocab_size=32, max_position_embeddings=64, **sizes, **heads)
    return AutoModelForCausalLM.from_config(config)


def batch_of(rows: list[dict], collator=None) -> dict:
    tensors = [{name: torch.tensor(row[name]).numpy() for name in row} for row in rows]
    return (collator or Collator(0))(tensors)


def test_positions_are_those_before_a_label_of_any_row() -> None:
    positions, labels = labelled(batch_of(ROWS)["labels"])
    assert positions.tolist() == [1, 3, 4]
    assert labels.tolist() == [[3, 5, 6], [9, MASKED, MASKED]]


def test_a_label_of_the_first_token_is_learned_from_nothing() -> None:
    positions, labels = labelled(torch.tensor([[4, MASKED, 6]]))
    assert (positions.tolist(), labels.tolist()) == ([1], [[6]])


@pytest.mark.parametrize("items", [None, 4])
def test_loss_and_gradients_are_those_of_all_logits(network, items: int | None) -> None:
    counted = {} if items is None else {"num_items_in_batch": torch.tensor(items)}
    found = []
    for collator in (Collator(0), AnswersOnly(Collator(0))):
        network.zero_grad()
        outputs = network(**batch_of(ROWS, collator), **counted)
        outputs.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        found.append((outputs.loss.detach(), gradient, outputs.logits.shape[1]))
    (whole, its_gradient, every), (kept, kept_gradient, some) = found
    assert (every, some) == (8, 3)
    torch.testing.assert_close(kept, whole, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(kept_gradient, its_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_labels_have_all_logits(network, tmp_path: Path, smoothing: float) -> None:
    args = SftArgs(output_dir=str(tmp_path), label_smoothing_factor=smoothing, bf16=False)
    trainer = SftTrainer(model=network, args=args, data_collator=Collator(0))
    batch = batch_of(ROWS, trainer.data_collator)
    assert ("logits_to_keep" in batch) == (not smoothing)
    assert torch.isfinite(trainer.compute_loss(network, batch))


def test_who_takes_positions(network) -> None:
    from peft import LoraConfig, get_peft_model

    assert takes_positions(network)
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=16, n_head=2))
    assert takes_positions(gpt2)
    assert takes_positions(get_peft_model(network, LoraConfig(target_modules="all-linear")))
    sizes = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8}
    assert not takes_positions(BartForCausalLM(BartConfig(vocab_size=16, **sizes)))
    gpt2.loss_function = lambda *_: None
    assert not takes_positions(gpt2)
    assert not takes_positions(torch.nn.Linear(2, 2))

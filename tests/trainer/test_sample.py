"""trainer/sample.py: what a run left answers, whole model or adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.errors import RequestError
from trainer.sample import answer, load


def test_a_model_and_an_adapter_answer(tiny: Path, tmp_path: Path) -> None:
    whole, tokenizer = load(tiny)
    said = answer(whole, tokenizer, "Who are you?", max_new_tokens=8)
    assert said
    assert said == answer(whole, tokenizer, "Who are you?", max_new_tokens=8)
    assert "<|im_start|>" not in said
    base = AutoModelForCausalLM.from_pretrained(tiny)
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    assert answer(*load(tmp_path), "Who are you?", max_new_tokens=8) != said


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a run's output"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="can't be loaded"):
        load(tmp_path)

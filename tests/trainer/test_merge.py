"""trainer/merge.py: an adapter becomes a model with equal logits, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from trainer import merge as merging
from trainer.errors import RequestError
from trainer.merge import merge


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    """An adapter that changes what the tiny model says."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_merged_model_says_what_base_and_adapter_say(
    adapter: Path, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    assert merge(adapter, out) < 0.15
    assert not (out / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert set(GenerationConfig.from_pretrained(out).eos_token_id) == {0, 2}  # the template's, too
    ids = torch.arange(40)[None]
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(tiny)(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out)(input_ids=ids).logits
    assert (merged - base).abs().max() > base.std()  # the adapter is really in it


def test_weights_that_differ_are_not_left_behind(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(merging.TOLERANCE, torch.bfloat16, 0.0)
    with pytest.raises(RequestError, match=r"logits differ .* nothing was written"):
        merge(adapter, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_what_can_not_be_merged(adapter: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"the base model /gone can't be loaded: .*give --base"):
        merge(adapter, tmp_path / "merged", "/gone")
    with pytest.raises(RequestError, match="that is no LoRA adapter"):
        merge(tiny, tmp_path / "merged")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(RequestError, match="is not empty"):
        merge(adapter, tmp_path / "full")

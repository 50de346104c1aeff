"""trainer/model.py: what is asked for is what is loaded, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from trainer.args import LoraArgs, ModelArgs, SftArgs
from trainer.errors import RequestError
from trainer.model import attach_lora, fit_vocabulary, load_model, load_tokenizer, weights_dtype


@pytest.fixture
def model(tiny: Path) -> PreTrainedModel:
    return load_model(ModelArgs(model_name_or_path=str(tiny)), torch.bfloat16)


@pytest.fixture
def training(tmp_path: Path) -> SftArgs:
    return SftArgs(output_dir=str(tmp_path))


def adapted(model: torch.nn.Module) -> set[str]:
    """Names of the layers that have an adapter."""
    return {
        name.removeprefix("base_model.model.").rpartition(".lora_A")[0]
        for name, _ in model.named_modules()
        if name.endswith("lora_A.default")
    }


def test_all_means_every_linear_layer_but_the_output(
    model: PreTrainedModel, training: SftArgs
) -> None:
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert "lm_head" in linear
    lora = attach_lora(model, LoraArgs(), training)
    assert adapted(lora) == linear - {"lm_head"}
    assert all(("lora_" in n) == p.requires_grad for n, p in lora.named_parameters())


def test_named_targets_and_no_others(model: PreTrainedModel, training: SftArgs) -> None:
    lora = attach_lora(model, LoraArgs(target_modules="q_proj, v_proj"), training)
    assert {name.rpartition(".")[2] for name in adapted(lora)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("names", ["q_proj,query", "", "proj"])
def test_a_target_that_does_not_exist_is_an_error(
    names: str, model: PreTrainedModel, training: SftArgs
) -> None:
    with pytest.raises(RequestError, match="q_proj"):
        attach_lora(model, LoraArgs(target_modules=names), training)


def test_attention_asked_for_is_attention_used(tiny: Path) -> None:
    for name in ("eager", "sdpa"):
        args = ModelArgs(model_name_or_path=str(tiny), attn_implementation=name)
        assert load_model(args, torch.float32).config._attn_implementation == name


@pytest.mark.skipif(torch.cuda.is_available(), reason="may be there")
@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flush_attention"])
def test_attention_that_is_not_here_is_an_error(name: str, tiny: Path) -> None:
    args = ModelArgs(model_name_or_path=str(tiny), attn_implementation=name)
    with pytest.raises(RequestError, match=f"--attn_implementation {name}"):
        load_model(args, torch.float32)


def test_a_tokenizer_without_a_chat_template_needs_one(tiny: Path, tmp_path: Path) -> None:
    plain = PreTrainedTokenizerFast.from_pretrained(tiny)
    plain.chat_template = None
    plain.save_pretrained(tmp_path / "plain")
    args = ModelArgs(model_name_or_path=str(tmp_path / "plain"))
    with pytest.raises(RequestError, match="--chat_template"):
        load_tokenizer(args)
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    args.chat_template = str(tmp_path / "mine.jinja")
    assert load_tokenizer(args).chat_template == "{{ messages[0].content }}"


def test_a_larger_tokenizer_is_an_error(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    fit_vocabulary(model, tokenizer)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(RequestError, match="1025 tokens, the model 1024"):
        fit_vocabulary(model, tokenizer)


def test_full_training_without_deepspeed_keeps_fp32_weights(training: SftArgs) -> None:
    assert weights_dtype(training, LoraArgs(use_peft=False)) == torch.float32
    assert weights_dtype(training, LoraArgs(use_peft=True)) == torch.bfloat16

"""trainer/model.py: what is asked for is what is loaded, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from trainer.args import LoraArgs, ModelArgs, SftArgs
from trainer.errors import RequestError
from trainer.model import (
    attach_lora,
    fit_length,
    fit_vocabulary,
    load_model,
    load_tokenizer,
    set_stops,
    weights_dtype,
)


@pytest.fixture
def model(tiny: Path) -> PreTrainedModel:
    return load_model(ModelArgs(model_name_or_path=str(tiny)), torch.bfloat16)


def test_weights_that_are_not_there_are_not_made_up(tiny: Path, tmp_path: Path) -> None:
    whole = AutoModelForCausalLM.from_pretrained(tiny)
    weights = {n: v for n, v in whole.state_dict().items() if "layers.0.mlp" not in n}
    whole.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(
        RequestError, match=r"lacks the weights model\.layers\.0\.mlp\.\S+ and \d more"
    ):
        load_model(ModelArgs(model_name_or_path=str(tmp_path)), torch.bfloat16)


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


#: Of each layer, by hand: what ``--target_modules all`` has to mean.
LINEAR = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral"])
def test_the_layers_of_families_by_hand(kind: str, training: SftArgs) -> None:
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    lora = attach_lora(AutoModelForCausalLM.from_config(config), LoraArgs(), training)
    expected = {f"model.layers.{layer}.{name}" for layer in (0, 1) for name in LINEAR}
    assert adapted(lora) == expected


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


def test_rows_longer_than_the_model_is_an_error(model: PreTrainedModel) -> None:
    fit_length(model, 4096, "--model_max_length")
    with pytest.raises(RequestError, match="--block_size 4097: the model has 4096 positions"):
        fit_length(model, 4097, "--block_size")


def test_full_training_without_deepspeed_keeps_fp32_weights(training: SftArgs) -> None:
    assert weights_dtype(training, LoraArgs(use_peft=False)) == torch.float32
    assert weights_dtype(training, LoraArgs(use_peft=True)) == torch.bfloat16


def test_what_is_no_model_is_one_line(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for folder, why in ((tmp_path, "model_type"), (tmp_path / "nowhere", "nowhere")):
        args = ModelArgs(model_name_or_path=str(folder))
        with pytest.raises(RequestError, match=f"no model can be loaded from .*{why}") as error:
            load_model(args, torch.bfloat16)
        assert "\n" not in str(error.value)
        with pytest.raises(RequestError, match="no tokenizer can be loaded from") as error:
            load_tokenizer(args)
        assert "\n" not in str(error.value)


def test_padding_needs_no_token_of_its_own(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(ModelArgs(model_name_or_path=str(tmp_path))).pad_token_id == 0


@pytest.mark.parametrize("known", [None, 0, [0, 1]])
def test_the_saved_model_stops_where_its_template_ends_an_answer(
    model: PreTrainedModel, tiny: Path, tmp_path: Path, known: int | list[int] | None
) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny, eos_token="<|endoftext|>")
    model.generation_config.eos_token_id = known
    set_stops(model, tokenizer)
    model.save_pretrained(tmp_path)
    stops = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert tokenizer.convert_ids_to_tokens(stops)[-1] == "<|im_end|>"
    assert sorted(stops) == ([0, 1, 2] if known == [0, 1] else [0, 2])

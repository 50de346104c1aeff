"""Loading: tokenizer, base model, LoRA adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from trainer import quantize
from trainer.args import LoraArgs, ModelArgs, SftArgs
from trainer.data import stop_ids
from trainer.errors import RequestError
from trainer.templates import read_template

#: Implementations that come as separate packages. transformers may fetch a kernel from the hub in
#: their place, which hosts without internet can't and others should not do unasked.
FLASH = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash-attn-3", is_flash_attn_3_available),
}


def load_tokenizer(args: ModelArgs, *, chats: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token, and for rows of ``chats`` with a chat template.

    Raises RequestError when that is missing.
    """
    named = args.tokenizer_name_or_path or args.model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            named, revision=args.model_revision, trust_remote_code=args.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise RequestError(
            f"no tokenizer can be loaded from {named}: {first_line(error)}"
        ) from error
    if args.chat_template:
        tokenizer.chat_template = read_template(args.chat_template)
    if chats and not tokenizer.chat_template:
        raise RequestError(
            f"{named} has no chat template (a base model, not an instruct one?): give one with "
            "--chat_template, by name or FILE"
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked from attention and loss, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def first_line(error: Exception) -> str:
    """The first line of an error that transformers explains at length."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def weights_dtype(training: SftArgs, lora: LoraArgs) -> torch.dtype:
    """What the base weights are loaded as.

    Half precision where DeepSpeed keeps fp32 copies for the optimizer, or where LoRA leaves the
    weights frozen; else fp32 (autocast then computes in half precision).
    """
    half = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
    return half if training.deepspeed or lora.use_peft else torch.float32


def load_model(
    args: ModelArgs, dtype: torch.dtype, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """The base model, on this rank's device if it is quantised. Under ZeRO-3 each rank holds its
    part only.

    Raises RequestError when the attention implementation asked for is not the one in use, or the
    folder has not all of the weights.
    """
    wanted = args.attn_implementation
    if wanted in FLASH and not FLASH[wanted][1]():
        raise RequestError(
            f"--attn_implementation {wanted} needs a GPU it supports and the package "
            f"{FLASH[wanted][0]}, which are not here: install it on every host, or use sdpa"
        )
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            args.model_name_or_path,
            output_loading_info=True,
            revision=args.model_revision,
            trust_remote_code=args.trust_remote_code,
            dtype=dtype,
            **quantize.load_arguments(quantization),
            **({"attn_implementation": wanted} if wanted else {}),
        )
    except (ImportError, OSError, ValueError) as error:
        if wanted and re.search("attn|attention", str(error), re.IGNORECASE):
            raise RequestError(f"--attn_implementation {wanted}: {error}") from error
        where = f"no model can be loaded from {args.model_name_or_path}"
        raise RequestError(f"{where}: {first_line(error)}") from error
    require_whole(args.model_name_or_path, info)
    if wanted and model.config._attn_implementation != wanted:
        raise RequestError(
            f"--attn_implementation {wanted}: the model uses {model.config._attn_implementation}"
        )
    return model


def require_whole(model: str, info: Mapping[str, Any]) -> None:
    """Raise RequestError for a model that came without some of its weights.

    transformers makes them up, with a warning. ``info``: what ``output_loading_info`` gives, in
    which weights that are another's too (a tied output layer) don't count as missing.
    """
    if missing := sorted(info["missing_keys"]):
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(
            f"{model} lacks the weights {missing[0]}{others}, which would be random numbers: "
            "copy that model again, with its output layer (a ...ForCausalLM)"
        )


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RequestError when the tokenizer has tokens that the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise RequestError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {rows} embeddings: "
            "use the model's own tokenizer"
        )


def fit_length(model: PreTrainedModel, length: int, flag: str) -> None:
    """Raise RequestError for rows longer than the positions that the model knows."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and length > positions:
        raise RequestError(
            f"{flag} {length}: the model has {positions} positions; use at most that"
        )


def set_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Have whoever generates with the saved model stop where its answers end."""
    config = model.generation_config
    if config is None:
        return
    known = config.eos_token_id
    stops = known if isinstance(known, list) else [] if known is None else [known]
    stops = [*stops, *(each for each in stop_ids(tokenizer) if each not in stops)]
    config.eos_token_id = stops[0] if len(stops) == 1 else stops or None


def attach_lora(model: PreTrainedModel, args: LoraArgs, training: SftArgs) -> PeftModel:
    """The model with a fresh LoRA adapter; everything else is frozen.

    Raises RequestError when a named target module does not exist.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=_targets(model, args.target_modules),
        modules_to_save=_existing(model, args.modules_to_save, "--modules_to_save"),
    )
    # DeepSpeed keeps its own fp32 copies, and ZeRO-3 can't mix types
    # (https://github.com/deepspeedai/DeepSpeed/issues/8072); without it the adapter must be fp32.
    adapted = get_peft_model(model, config, autocast_adapter_dtype=not training.deepspeed)
    if training.activation_checkpointing:
        # Checkpointed layers need an input that wants a gradient, and the embedding is frozen.
        adapted.enable_input_require_grads()
    return adapted


def prepare_checkpointing(training: SftArgs) -> None:
    """Choose the kind of activation checkpointing that works with the ZeRO stage.

    Under ZeRO-3 the recomputation must be the reentrant kind: the other one compares the shapes of
    what it saved, and finds parameters that have been given back in between
    (https://github.com/huggingface/trl/issues/2514).
    """
    if training.activation_checkpointing and is_deepspeed_zero3_enabled():
        asked = training.activation_checkpointing_kwargs or {}
        if asked.get("use_reentrant") is False:
            raise RequestError("ZeRO-3 needs activation checkpointing with use_reentrant true")
        training.activation_checkpointing_kwargs = {**asked, "use_reentrant": True}


def _targets(model: PreTrainedModel, names: str) -> str | list[str] | None:
    return "all-linear" if names == "all" else _existing(model, names, "--target_modules")


def _existing(model: PreTrainedModel, names: str | None, flag: str) -> list[str] | None:
    """The comma-separated names, each of which must end some module's name (PEFT's own rule)."""
    if names is None:
        return None
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    modules = [f".{name}" for name, _ in model.named_modules()]
    missing = [name for name in wanted if not any(m.endswith(f".{name}") for m in modules)]
    if missing or not wanted:
        leaves = sorted({m.rpartition(".")[2] for m in modules if not m.endswith(".")})
        raise RequestError(
            f"{flag} {names}: no module called {', '.join(missing) or 'that'}; the model has "
            + ", ".join(leaf for leaf in leaves if not leaf.isdigit())
        )
    return wanted

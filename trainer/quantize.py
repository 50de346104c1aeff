"""Frozen weights in 8 or 4 bits under a LoRA adapter (QLoRA, https://arxiv.org/abs/2305.14314).

By bitsandbytes, which has kernels for CUDA and, since 0.46, for CPUs
(https://huggingface.co/docs/bitsandbytes/main/en/installation). Whether it works here is tried on a
small matrix before anything is loaded.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from trainer.args import LoraArgs
from trainer.errors import RequestError

KINDS = ("8bit", "4bit")


def make_quantization(args: LoraArgs, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How the base weights are to be kept; None: as they are. ``dtype``: what is computed in.

    Raises RequestError for what can't be honoured, on this host or at all.
    """
    if args.quantize is None:
        return None
    where = f"--quantize {args.quantize}"
    if args.quantize not in KINDS:
        raise RequestError(f"{where}: 8bit or 4bit")
    if not args.use_peft:
        raise RequestError(f"{where} needs --use_peft true: quantised weights can't be trained")
    if is_deepspeed_zero3_enabled():
        # https://huggingface.co/docs/peft/accelerate/deepspeed#compatibility-with-bitsandbytes-quantization--lora
        raise RequestError(f"{where}: ZeRO-3 would split what bitsandbytes packed: use --zero 2")
    _require_working(where, args.quantize)
    if args.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _device() -> torch.device:
    """This rank's device."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    index = torch.accelerator.current_device_index()
    return torch.device(torch.accelerator.current_accelerator().type, index)


def _require_working(where: str, kind: str) -> None:
    """RequestError unless bitsandbytes is here, and computes on this rank's device."""
    try:
        version = metadata.version("bitsandbytes")
        import bitsandbytes as bnb

        device = _device()
        layer = bnb.nn.Linear8bitLt if kind == "8bit" else bnb.nn.Linear4bit
        more = {"has_fp16_weights": False} if kind == "8bit" else {"quant_type": "nf4"}
        small = layer(64, 64, bias=False, **more).to(device)
        found = small(torch.ones(2, 64, dtype=torch.bfloat16, device=device))
    except metadata.PackageNotFoundError:
        raise RequestError(
            f"{where} needs the package bitsandbytes, which is not here: add it to every host's "
            "environment"
        ) from None
    except Exception as error:  # whatever a library of kernels raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"{where}: bitsandbytes does not work on {_device()} here: {reason}"
        ) from error
    if not torch.isfinite(found).all():
        raise RequestError(f"{where}: bitsandbytes {version} computes no numbers on {_device()}")


def load_arguments(quantization: BitsAndBytesConfig | None) -> dict[str, Any]:
    """What from_pretrained gets besides: quantised weights are made on the device they stay on."""
    if quantization is None:
        return {}
    return {"quantization_config": quantization, "device_map": {"": _device()}}

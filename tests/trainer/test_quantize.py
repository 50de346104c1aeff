"""trainer/quantize.py: --quantize is honoured, or refused in one line before a model is loaded."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from trainer import quantize
from trainer.args import LoraArgs
from trainer.errors import RequestError
from trainer.quantize import load_arguments, make_quantization


def test_nothing_asked_nothing_changed() -> None:
    assert make_quantization(LoraArgs(), torch.bfloat16) is None
    assert load_arguments(None) == {}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (LoraArgs(quantize="3bit"), "--quantize 3bit: 8bit or 4bit"),
        (LoraArgs(quantize="4bit", use_peft=False), "quantised weights can't be trained"),
    ],
)
def test_what_can_not_be_is_refused(args: LoraArgs, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_quantization(args, torch.bfloat16)


def test_zero_3_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(RequestError, match="ZeRO-3 would split what bitsandbytes packed"):
        make_quantization(LoraArgs(quantize="4bit"), torch.bfloat16)


def test_the_package_is_there_and_works_or_that_is_said() -> None:
    args = LoraArgs(quantize="4bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(RequestError, match="needs the package bitsandbytes, which is not here"):
            make_quantization(args, torch.bfloat16)
        return
    config = make_quantization(args, torch.bfloat16)
    assert config is not None
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert config.bnb_4bit_compute_dtype == torch.bfloat16

"""trainer/fit.py: what is saved is what was loaded, but for the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.args import SftArgs
from trainer.fit import CountingTrainer


@pytest.fixture
def trainer(tiny: Path, tmp_path: Path) -> CountingTrainer:
    """One that would train the tiny model."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    return CountingTrainer(model=model, args=SftArgs(output_dir=str(tmp_path / "out")))


def test_a_result_generates_with_a_cache_as_its_base_does(
    trainer: CountingTrainer, tmp_path: Path
) -> None:
    trainer.save_model(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True
    assert trainer.model.config.use_cache is False  # training goes on without one

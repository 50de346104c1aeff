"""What the controller knows of DeepSpeed's keys and the trainers' defaults is what they have."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import deepspeed
import pytest
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)

from provision.launch.deepspeed_keys import KEYS, VERSION
from provision.launch.own_config import DEFAULTS, OF_OBJECTIVE

MODELS = {
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "fp16": DeepSpeedFP16Config,
    "bf16": DeepSpeedBF16Config,
}


class Recorder(dict[str, Any]):
    """A configuration that remembers which keys were looked for."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def keys(self) -> Any:
        return self


def test_the_keys_are_those_of_the_deepspeed_that_is_here() -> None:
    assert deepspeed.__version__.partition("+")[0] == VERSION
    for section, model in MODELS.items():
        names = {name for n, field in model.model_fields.items() for name in (n, field.alias)}
        assert names - {None} == set(KEYS[section]), section


def test_the_file_s_own_keys_are_those_that_deepspeed_reads() -> None:
    recorder = Recorder(train_batch_size=1)
    config = DeepSpeedConfig.__new__(DeepSpeedConfig)
    config._param_dict = recorder
    config.mpu, config.global_rank, config.world_size = None, 0, 1
    config._initialize_params(recorder)
    assert recorder.seen == set(KEYS[""])


@pytest.mark.parametrize("objective", ["sft", "orpo", "pretrain"])
def test_the_defaults_are_the_trainers(objective: str) -> None:
    kind = importlib.import_module(f"trainer.{objective}").OBJECTIVE.training_args
    theirs = {n: p.default for n, p in inspect.signature(kind).parameters.items()}
    ours = {**DEFAULTS, **OF_OBJECTIVE.get(objective, {})}
    assert {name: theirs[name] for name in ours} == ours

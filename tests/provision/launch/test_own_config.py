"""provision/launch/own_config.py: what of --deepspeed my.json is refused, and with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.launch.own_config import read_into, read_own_config, require_agreeing, zero_of
from provision.settings import make_settings

CHECKOUT = Path(__file__).parents[3]
WHOLE = {"stage3_gather_16bit_weights_on_model_save": True}


def write(folder: Path, value: Any) -> Path:
    path = folder / "my.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_every_configuration_of_ours_is_taken() -> None:
    paths = sorted(CHECKOUT.glob("zero_configs/**/*.json"))
    assert len(paths) > 6
    for path in paths:
        config = read_own_config(path)
        zero_of(path, config)
        require_agreeing(path, config, {}, 4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "found Expecting property name"),
        ("[]", "found a list, expected one JSON object"),
        ({"zero_optimisation": {}}, "found zero_optimisation, .*did you mean zero_optimization?"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimiser": {}}},
            r"found zero_optimization\.offload_optimiser, .*did you mean offload_optimizer\?",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"pin": True}}},
            r"offload_optimizer\.pin, expected a key that DeepSpeed 0\.19\.8 has",
        ),
        ({"bf16": True}, "found bf16: True, expected an object"),
    ],
)
def test_what_deepspeed_would_not_take_is_named(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_own_config(write(tmp_path, value))


@pytest.mark.parametrize(
    ("zero", "expected"),
    [
        ({"stage": 1}, (1, "none")),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, (2, "optimizer")),
        ({"stage": 2, "offload_optimizer": {"device": "none"}}, (2, "none")),
        ({"stage": 3, "offload_param": {"device": "nvme"}, **WHOLE}, (3, "all")),
    ],
)
def test_stage_and_offload_are_the_file_s(zero: Any, expected: tuple[int, str]) -> None:
    assert zero_of(Path("my.json"), {"zero_optimization": zero}) == expected


@pytest.mark.parametrize(
    ("zero", "words"),
    [
        ({}, "stage None, expected 1, 2 or 3"),
        ({"stage": 3}, "else the weights that are saved are empty"),
        ({"stage": 2, "offload_param": {"device": "cpu"}}, "only that stage splits parameters"),
    ],
)
def test_what_can_not_be_run(zero: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        zero_of(Path("my.json"), {"zero_optimization": zero})


def test_all_that_contradicts_the_flags_is_said_at_once() -> None:
    config = {
        "train_batch_size": 64,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": "auto",
        "bf16": {"enabled": False},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.95]}},
    }
    with pytest.raises(ConfigError) as caught:
        require_agreeing(Path("my.json"), config, {"learning_rate": "1e-4"}, 2)
    assert caught.value.found == (
        "gradient_accumulation_steps is 4, and --gradient_accumulation_steps 8; "
        "bf16.enabled is False, and --bf16 True; "
        "optimizer.params.betas 2 is 0.95, and --adam_beta2 0.999; "
        "train_batch_size is 64, and 1 a device x 8 accumulated x 2 ranks is 16"
    )
    agreeing = {"gradient_accumulation_steps": "4", "bf16": "false", "adam_beta2": 0.95}
    flags = {"learning_rate": 1e-4, "per_device_train_batch_size": 8, **agreeing}
    require_agreeing(Path("my.json"), config, flags, 2)
    require_agreeing(
        Path("my.json"), {"gradient_accumulation_steps": 4}, {"objective": "orpo"}, None
    )


def test_the_file_takes_the_place_of_two_flags(tmp_path: Path) -> None:
    path = write(tmp_path, {"zero_optimization": {"stage": 3, **WHOLE}})
    settings = read_into(make_settings({"zero": 1}, {"deepspeed": str(path)}, tmp_path))
    assert (settings.zero, settings.offload) == (3, "none")
    with pytest.raises(ConfigError, match="--deepspeed: found --zero, too"):
        read_into(make_settings({}, {"deepspeed": str(path), "zero": "2"}, tmp_path))

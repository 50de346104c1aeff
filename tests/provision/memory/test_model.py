"""model.py, known.py, read.py: exact counts from a config alone, and one line for what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.memory.known import KNOWN, SIZES
from provision.memory.model import FAMILIES, parse_model
from provision.memory.read import known_model, read_model

#: As the safetensors index or the model card of each repository says.
PUBLISHED = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
}
QWEN = dict(KNOWN["qwen3-0.6b"][1])


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_models_have_their_published_size(name: str) -> None:
    model = known_model(name)
    assert model is not None
    assert model.parameters == PUBLISHED[name]


def test_every_known_model_and_size_can_be_read() -> None:
    for name in (*KNOWN, *SIZES):
        assert read_model(name).parameters > 100_000_000
    assert read_model("Qwen/Qwen3-32B") == read_model("32B") == read_model("qwen3-32b")


def test_untied_embeddings_count_twice() -> None:
    untied = parse_model({**QWEN, "tie_word_embeddings": False}, "x", "x")
    tied = parse_model(QWEN, "x", "x")
    assert untied.parameters - tied.parameters == 151_936 * 1024


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_key_value_heads"])
def test_a_config_without_a_field_names_it(field: str) -> None:
    config = {key: value for key, value in QWEN.items() if key != field}
    with pytest.raises(ConfigError, match=rf"cfg: {field}: found no such field"):
        parse_model(config, "x", "cfg")


@pytest.mark.parametrize("value", [0, -1, "7", True, 1.5])
def test_a_field_that_is_no_size(value: Any) -> None:
    with pytest.raises(ConfigError, match="hidden_size"):
        parse_model({**QWEN, "hidden_size": value}, "x", "cfg")


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        parse_model({**QWEN, "model_type": "mamba"}, "x", "cfg")
    assert "mamba" in str(error.value)
    assert all(kind in str(error.value) for kind in FAMILIES)
    assert "\n" not in str(error.value)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean qwen3-32b\?"):
        read_model("qwen3-32")


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_file_that_is_no_config(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_model(str(tmp_path))


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header = {n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 0]} for n, s in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_a_folder_is_held_to_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    model = parse_model(QWEN, "x", "x")
    shapes = {weight.name: list(weight.shape) for weight in model.weights}
    safetensors(tmp_path / "model.safetensors", {**shapes, "lm_head.weight": [151_936, 1024]})
    assert read_model(str(tmp_path)).parameters == model.parameters
    del shapes["norm.weight"]
    safetensors(tmp_path / "model.safetensors", shapes)
    with pytest.raises(ConfigError, match="596,048,896 parameters"):
        read_model(str(tmp_path))
    for damaged in (
        b"\x05",
        b"x" * 400,
        b"\x08" + b"\0" * 7 + b'{"a":{}}',
    ):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ConfigError, match="damaged"):
            read_model(str(tmp_path))

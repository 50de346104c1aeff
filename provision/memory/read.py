"""Where a model's config comes from: a file, a model folder, or a short name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.memory.known import KNOWN, SIZES
from provision.memory.model import Model, parse_model

_NO_TENSOR = "__metadata__"


def read_model(given: str | None) -> Model:
    """The model that ``--model`` names: a config.json, a folder with one, or a name in known.py.

    In a folder with safetensors the count is held against their headers: a config that belongs to
    other weights is an error. Raises ConfigError for what is none of these.
    """
    if not given:
        raise ConfigError(
            "--model",
            found="nothing",
            expected="a config.json, a model folder, or a name",
            remedy=f"known names: {', '.join(KNOWN)}",
        )
    known = known_model(given)
    if known:
        return known
    path = Path(given).expanduser()
    if not path.exists():
        raise _unknown(given)
    file = path / "config.json" if path.is_dir() else path
    model = parse_model(_read_json(file), path.resolve().name, str(file))
    return _held_to_weights(model, path) if path.is_dir() else model


def known_model(name: str) -> Model | None:
    """A model of known.py, by its short name, its repository's or its bare size. Pure."""
    key = name.lower()
    key = SIZES.get(key, key)
    for short, (repository, config) in KNOWN.items():
        if key in (short, repository.lower()):
            return parse_model(config, short, repository)
    return None


def _unknown(given: str) -> ConfigError:
    near = difflib.get_close_matches(given.lower(), [*KNOWN, *SIZES], n=1, cutoff=0.4)
    return ConfigError(
        f"--model {given}",
        found="no such file or folder here, and no known name",
        expected=", ".join(KNOWN),
        remedy=f"did you mean {near[0]}?" if near else "give the path of its config.json",
    )


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--model {file}",
            found=error,
            expected="a readable config.json",
            remedy="use the one that came with the model",
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(
            f"--model {file}",
            found=f"a {type(found).__name__}",
            expected="an object",
            remedy="use the config.json that came with the model",
        )
    return found


def _held_to_weights(model: Model, folder: Path) -> Model:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return model
    shapes: dict[str, list[int]] = {}
    for file in files:
        shapes |= read_shapes(file)
    if model.tied:  # some files hold the tied output layer too
        shapes.pop("lm_head.weight", None)
    counted = sum(_numel(shape) for shape in shapes.values())
    # Buffers that older files kept, such as rotary_emb.inv_freq, are no parameters.
    counted -= sum(_numel(s) for name, s in shapes.items() if name.endswith("inv_freq"))
    if counted != model.parameters:
        raise ConfigError(
            f"--model {folder}",
            found=f"{counted:,} parameters in {len(files)} safetensors files",
            expected=f"{model.parameters:,}, which config.json describes",
            remedy="config and weights belong to different models, or the weights are quantised",
        )
    return model


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Name → shape of every tensor in a safetensors file: 8 bytes of length, then JSON.

    https://huggingface.co/docs/safetensors#format
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError(f"a header of {length:,} bytes in a smaller file")
            header = dict(json.loads(stream.read(length)))
        return {name: list(each["shape"]) for name, each in header.items() if name != _NO_TENSOR}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--model {file}",
            found=repr(error) if isinstance(error, KeyError | TypeError) else error,
            expected="a safetensors file",
            remedy="copy it again: it is damaged",
        ) from None


def _numel(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count

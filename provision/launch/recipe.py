"""The trainer's flags of a run: what a recipe file and ``--set`` say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from provision.errors import ConfigError

#: Trainer flags that the launcher sets itself → what to use in their place.
OWNED = {
    "model_name_or_path": "--model",
    "train_file_dir": "--data",
    "output_dir": "--output",
    "deepspeed": "--zero and --offload",
}
_FLAG = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def read_recipe(path: Path) -> dict[str, Any]:
    """The trainer's flags in a recipe: a flat YAML mapping; lists are several values of one flag.

    Raises ConfigError for a file that can't be read or has another shape.
    """

    def bad(found: object, expected: str) -> ConfigError:
        return ConfigError(
            f"recipe {path}", found=found, expected=expected, remedy="see recipes/sft.yaml"
        )

    try:
        text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise bad(error, "a readable YAML file") from None
    except yaml.YAMLError as error:
        raise bad(" ".join(str(error).split()), "YAML") from None
    if recipe is None:
        return {}
    if not isinstance(recipe, dict):
        raise bad(f"a {type(recipe).__name__}", "flag: value, one a line")
    return {str(key): value for key, value in recipe.items()}


def override(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's flags, and over them those given with ``--set``. Pure.

    Epochs that were asked for are not cut by the recipe's number of steps, which the trainer would
    take in place of them.
    """
    steps = {"max_steps"} if "num_train_epochs" in given else set()
    return {**{name: value for name, value in recipe.items() if name not in steps}, **given}


def parse_flags(flags: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Trainer flags from a recipe or ``--set``, with underscores; ConfigError for what is none."""
    parsed = {}
    for key, value in flags.items():
        name = str(key).replace("-", "_")
        if name in OWNED:
            raise ConfigError(
                f"{source}: {key}",
                found=value,
                expected="no value here: the launcher sets it",
                remedy=f"use {OWNED[name]}",
            )
        if not _FLAG.fullmatch(name):
            raise ConfigError(
                f"{source}: {key!r}",
                found="no flag's name",
                expected="letters, digits and _",
                remedy="write the flag's name as trainer/args.py has it",
            )
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, dict | list) for each in values) or value == []:
            raise ConfigError(
                f"{source}: {key}",
                found=value,
                expected="one value, or a list of values",
                remedy="recipes are flat: write JSON in quotes where a flag takes it",
            )
        if any("\0" in str(each) for each in values):  # execve(2) ends an argument there
            raise ConfigError(
                f"{source}: {key}",
                found=ascii(value),
                expected="no NUL character",
                remedy="take it out: a command's argument can't hold one",
            )
        parsed[name] = value
    return parsed

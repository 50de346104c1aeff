"""The trainer's flags from a recipe file."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.recipe import override, read_recipe


def test_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("max_steps: 50\nbf16: true\nreport_to: [none, x]\n")
    assert read_recipe(path) == {"max_steps": 50, "bf16": True, "report_to": ["none", "x"]}
    path.write_text("# nothing\n")
    assert read_recipe(path) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- a\n", "a list"),
        ("word", "a str"),
        ("a: [", "while parsing"),
        ("a: !!python/x 1", "could not"),
    ],
)
def test_recipe_of_another_shape(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_recipe(path)
    assert error.value.found.startswith(found)
    assert "\n" not in str(error.value)


def test_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_recipe(tmp_path / "r.yaml")


def test_epochs_of_set_replace_the_recipes_steps() -> None:
    recipe = {"max_steps": 100, "seed": 1}
    assert override(recipe, {"num_train_epochs": 3}) == {"seed": 1, "num_train_epochs": 3}
    assert override(recipe, {"seed": 2}) == {"max_steps": 100, "seed": 2}
    both = {"num_train_epochs": 3, "max_steps": 7}
    assert override(recipe, both) == {"seed": 1, **both}

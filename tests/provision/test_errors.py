"""One line, whatever was found."""

from __future__ import annotations

from provision.errors import ConfigError


def test_of_an_oserror_the_reason_is_told_and_not_its_number() -> None:
    found = FileNotFoundError(2, "No such file or directory", "a/recipe.yaml")
    error = ConfigError("recipe a/recipe.yaml", found=found, expected="a file", remedy="name one")
    assert str(error) == (
        "recipe a/recipe.yaml: found No such file or directory, expected a file: name one"
    )
    assert error.as_json()["found"] == "No such file or directory"

"""Texts are written whole or not at all, and what can't be is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.files import apply_text


def test_a_text_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a lock"
    for text in ("grün", "two"):
        apply_text(path, text, remedy="")
        assert path.read_bytes() == text.encode()
    assert [one.name for one in tmp_path.iterdir()] == ["a lock"]


def test_a_place_that_cant_be_written_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "in the way"
    folder.mkdir()
    (folder / "of a file").touch()
    for path, found in ((folder, "Is a directory"), (tmp_path / "no" / "x", "No such file or")):
        with pytest.raises(ConfigError, match=found) as error:
            apply_text(path, "text", remedy="name another with --lock-file")
        assert str(path) in str(error.value)
        assert "name another with --lock-file" in str(error.value)
    assert [one.name for one in tmp_path.iterdir()] == ["in the way"]

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from provision.build.cache import Layout
from provision.build.shelf import COLUMNS, age_text, read_shelf
from provision.wheel.manifest import apply_manifest, sha256_of

NOW = dt.datetime(2026, 11, 21, 11, 0, tzinfo=dt.UTC)


@pytest.fixture
def put(make_manifest):
    """Put a wheel and its manifest into a folder."""

    def put(folder: Path, **changes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / make_manifest(**changes).wheel
        wheel.write_bytes(b"a wheel")
        fitting = {"size": 7, "sha256": sha256_of(wheel)}
        apply_manifest(make_manifest(**{**changes, **fitting}), folder)

    return put


def test_both_places_are_listed(tmp_path: Path, put) -> None:
    layout = Layout(root=tmp_path / "cache")
    put(tmp_path / "wheels", accelerator="cuda", arch_list=("8.0", "9.0+PTX"))
    put(layout.wheels / "aa", cpu="x86-64-v2")
    put(layout.wheels / ".aa.123")  # one that a build is about to keep
    found = read_shelf(tmp_path / "wheels", layout)
    assert [one.where for one in found] == ["wheels", "cache"]
    rows = [dict(zip(COLUMNS, one.row(NOW), strict=True)) for one in found]
    assert rows[0]["archs"] == "8.0 9.0+PTX"
    assert rows[1]["cpu"] == "x86-64-v2"
    assert rows[1]["age"] == "3 h"
    assert found[0].as_json(NOW)["age"] == 3 * 3600


def test_a_wheel_without_its_manifest_is_listed_with_the_reason(tmp_path: Path, put) -> None:
    put(tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    wheel.write_bytes(b"another")
    (found,) = read_shelf(tmp_path, Layout(root=tmp_path / "none"))
    assert found.manifest is None
    assert found.as_json(NOW)["problem"] == found.row(NOW)[3] != ""
    assert len(found.row(NOW)) == len(COLUMNS)


def test_no_folders_no_wheels(tmp_path: Path) -> None:
    assert read_shelf(tmp_path / "a", Layout(root=tmp_path / "b")) == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"),
     (40 * 86400, "40 days")],
)  # fmt: skip
def test_age(seconds: float, text: str) -> None:
    assert age_text(seconds) == text

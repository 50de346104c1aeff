"""Extra wheels in a folder: each named to the byte, one of a kind, and nothing unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.wheel.extra import ExtraWheel, apply_publish, parse_extra, read_extras
from provision.wheel.manifest import sha256_of


@pytest.fixture
def publish(extra: ExtraWheel, tmp_path: Path):
    """Put an extra wheel with some content into ``wheels``."""

    def do(content: bytes = b"wheel", **changes) -> tuple[ExtraWheel, tuple[str, ...]]:
        made = tmp_path / "made"
        made.write_bytes(content)
        values = {"sha256": sha256_of(made), "size": len(content), **changes}
        one = replace(extra, **values)
        return one, apply_publish(one, made, tmp_path / "wheels")

    return do


def test_what_was_published_is_read_again(publish, tmp_path: Path) -> None:
    one, replaced = publish()
    assert replaced == ()
    (tmp_path / "wheels" / "deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl").write_bytes(b"")
    assert read_extras(tmp_path / "wheels") == (one,)
    assert read_extras(tmp_path / "none") == ()


def test_a_newer_one_takes_the_place_of_ours_and_of_nothing_else(publish, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    publish()
    other, _ = publish(name="trl", wheel="trl-1.0-py3-none-any.whl")
    (wheels / "transformers-1-py3-none-any.whl").write_bytes(b"somebody's")
    (wheels / "deepspeed-1-py3-none-any.whl").write_bytes(b"")
    (wheels / "deepspeed-1-py3-none-any.whl.json").write_text("{}")
    newer, replaced = publish(wheel="transformers-5.25.0-py3-none-any.whl", version="5.25.0")
    assert replaced == ("transformers-5.24.0.dev0-py3-none-any.whl",)
    (wheels / "transformers-1-py3-none-any.whl").unlink()
    assert read_extras(wheels) == (newer, other)
    assert len(list(wheels.iterdir())) == 6


def test_a_wheel_that_nobody_vouches_for_is_refused(publish, tmp_path: Path) -> None:
    publish()
    (tmp_path / "wheels" / "odd-1-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"odd-1-py3.*found a wheel without a manifest"):
        read_extras(tmp_path / "wheels")


def test_a_wheel_that_was_changed_is_refused(publish, tmp_path: Path) -> None:
    one, _ = publish()
    (tmp_path / "wheels" / one.wheel).write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"transformers-5\.24.*found sha256"):
        read_extras(tmp_path / "wheels")


def test_two_of_one_distribution_are_refused(publish, extra, tmp_path: Path) -> None:
    publish()
    wheels = tmp_path / "wheels"
    for suffix in ("", ".json"):  # a copy from elsewhere
        name = f"transformers-6-py3-none-any.whl{suffix}"
        text = (wheels / (extra.wheel + suffix)).read_text()
        (wheels / name).write_text(text.replace(extra.wheel, "transformers-6-py3-none-any.whl"))
    with pytest.raises(ConfigError, match="expected one wheel of transformers"):
        read_extras(wheels)


@pytest.mark.parametrize(
    "change",
    [{"kind": "other"}, {"schema": 2}, {"size": "1"}, {"requires": ["not a (requirement"]}, None],
)
def test_a_broken_manifest_is_one_line(extra, change) -> None:
    values = {**extra.as_json(), **change} if change else []
    with pytest.raises(ConfigError, match="found no manifest of an extra wheel"):
        parse_extra(values, name="x.whl.json")

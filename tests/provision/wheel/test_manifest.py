from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.wheel.manifest import (
    apply_manifest,
    parse_manifest,
    read_wheel,
    read_wheels,
    sha256_of,
    sidecar,
)

KEYS = (
    "schema wheel sha256 size deepspeed accelerator ops_asked ops not_loaded torch "
    "torch_dist torch_cuda python_tag platform toolkit arch_list ptx archs_checked cpu isa_checked "
    "glibc glibcxx compiler source built_at requires"
)


@pytest.fixture
def put(tmp_path: Path, make_manifest):
    """Put a wheel and its manifest into the folder; returns the manifest."""

    def put(**changes):
        manifest = make_manifest(**changes)
        wheel = tmp_path / manifest.wheel
        wheel.write_bytes(b"a wheel")
        manifest = make_manifest(**{**changes, "size": 7, "sha256": sha256_of(wheel)})
        apply_manifest(manifest, tmp_path)
        return manifest

    return put


def test_keys_are_a_contract(make_manifest) -> None:
    values = make_manifest(cached=True).as_json()
    assert list(values) == KEYS.split()
    assert values["source"] == {"name": "deepspeed-0.19.8.tar.gz", "sha256": "cd" * 32}
    assert values["requires"][1] == {"name": "sympy", "version": "1.14.0", "sha256": "01" * 32}
    assert values["torch_cuda"] is None


def test_round_trip(make_manifest) -> None:
    manifest = make_manifest(
        accelerator="cuda",
        torch_cuda="13.0",
        toolkit="13.0.88",
        arch_list=("8.0", "9.0+PTX"),
        ptx=("9.0",),
        archs_checked=True,
        not_loaded={"fused_adam": "no driver"},
    )
    assert parse_manifest(json.dumps(manifest.as_json())) == manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 1}, "schema 1"),
        ({"more": 1}, "missing or unknown keys more"),
        ({"ops": "cpu_adam"}, "another type: ops"),
        ({"size": "3"}, "another type: size"),
        ({"torch_cuda": 13}, "another type: torch_cuda"),
        ({"toolkit": 13.0}, "another type: toolkit"),
        ({"ptx": "9.0"}, "another type: ptx"),
        ({"archs_checked": 1}, "another type: archs_checked"),
        ({"not_loaded": ["fused_adam"]}, "another type: not_loaded"),
        ({"source": {"name": "x"}}, "sha256"),
    ],
)
def test_another_manifest_is_refused(make_manifest, change, words) -> None:
    text = json.dumps({**make_manifest().as_json(), **change})
    with pytest.raises(ConfigError, match=words):
        parse_manifest(text)


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_no_manifest_at_all_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"wheels/x\.json"):
        parse_manifest(text, name="wheels/x.json")


def test_read_wheel(tmp_path: Path, put) -> None:
    manifest = put()
    assert read_wheel(tmp_path) == manifest
    assert read_wheel(tmp_path, manifest.wheel) == manifest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_no_wheel(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no wheel.*run build-deepspeed first"):
        read_wheel(tmp_path)
    assert read_wheels(tmp_path / "nowhere") == ()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--wheels: found a file, "):
        read_wheels(tmp_path / "file")
    with pytest.raises(ConfigError, match="no such file"):
        read_wheel(tmp_path, "deepspeed-1-py3-none-any.whl")


def test_two_wheels_need_a_name(tmp_path: Path, put) -> None:
    one = put()
    two = put(wheel=one.wheel.replace("x86v3", "x86v4"))
    with pytest.raises(ConfigError, match=r"2 wheels: .*say which with --wheel"):
        read_wheel(tmp_path)
    assert read_wheel(tmp_path, two.wheel) == two
    assert read_wheels(tmp_path) == (one, two)


def test_wheel_without_manifest(tmp_path: Path, put) -> None:
    sidecar(tmp_path / put().wheel).unlink()
    with pytest.raises(ConfigError, match="no manifest beside it"):
        read_wheel(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"b wheel", "sha256"), (b"a longer wheel", "size: found 14")]
)
def test_wheel_that_is_another(tmp_path: Path, put, content: bytes, words: str) -> None:
    (tmp_path / put().wheel).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_wheels(tmp_path)


def test_renamed_wheel(tmp_path: Path, put) -> None:
    path = tmp_path / put().wheel
    for old in (path, sidecar(path)):
        old.rename(old.with_name(old.name.replace("cp311", "cp312")))
    with pytest.raises(ConfigError, match="name: found"):
        read_wheels(tmp_path)

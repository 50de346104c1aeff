from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from provision.build.cache import (
    Layout,
    apply_copy,
    apply_facts,
    apply_lock,
    cache_dir,
    key_of,
    read_kept_wheel,
    read_nearest,
)
from provision.errors import ConfigError
from provision.wheel.manifest import apply_manifest, sha256_of


def test_cache_dir() -> None:
    xdg = {"XDG_CACHE_HOME": "/big/cache", "HOME": "/home/me"}
    assert cache_dir(xdg) == Path("/big/cache/zerofleet/build")
    assert cache_dir({"HOME": "/home/me"}) == Path("/home/me/.cache/zerofleet/build")
    relative = {"XDG_CACHE_HOME": "cache", "HOME": "/home/me"}
    assert cache_dir(relative) == Path("/home/me/.cache/zerofleet/build")
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        cache_dir({})


def test_key_ignores_order_and_sees_values() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_second_build_says_that_it_waits(tmp_path: Path) -> None:
    layout = Layout(root=tmp_path / "cache")
    layout.root.mkdir()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('4711'); f.flush(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(layout.lock)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == b"held\n"
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            holder.stdin.close()  # lets it go
            holder.wait()

        with apply_lock(layout, say), layout.lock.open() as other, pytest.raises(OSError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(said) == 1
    assert "pid 4711" in said[0]


def test_free_lock_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with apply_lock(Layout(root=tmp_path), said.append):
            pass
    assert said == []


def test_copy_is_whole_and_a_damaged_copy_is_no_wheel(tmp_path: Path, make_manifest) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    kept.mkdir()
    wheel = kept / make_manifest().wheel
    wheel.write_bytes(b"a wheel")
    manifest = make_manifest(size=7, sha256=sha256_of(wheel))
    apply_manifest(manifest, kept)
    apply_copy(manifest, source=kept, target=out)
    assert read_kept_wheel(out) == manifest
    assert len(list(out.iterdir())) == 2
    (out / wheel.name).write_bytes(b"half")
    assert read_kept_wheel(out) is None


def keep(layout: Layout, key: str, facts: dict[str, object], *, wheel: str = "deepspeed-1.whl"):
    folder = layout.wheels / key
    folder.mkdir(parents=True)
    (folder / wheel).touch()
    apply_facts(facts, folder)


def test_the_nearest_wheel_and_what_keeps_it_from_being_the_one(tmp_path: Path) -> None:
    layout = Layout(root=tmp_path)
    wanted = {"ops": ("cpu_adam", "utils"), "cpu": "x86-64-v3", "torch": ["2.13.0", "ab"]}
    assert read_nearest(layout, wanted) is None
    keep(layout, "far", {**wanted, "ops": ["cpu_adam"], "cpu": "x86-64-v4"}, wheel="far.whl")
    keep(layout, "near", {**wanted, "ops": ["cpu_adam"]}, wheel="near.whl")
    keep(layout, ".half", dict(wanted))
    (layout.wheels / "near" / "broken").touch()
    assert read_nearest(layout, wanted) == ("near.whl", ("ops",))
    # A part that an older version did not have in its key is a difference too.
    keep(layout, "old", {"ops": ["cpu_adam", "utils"], "cpu": "x86-64-v3"})
    assert read_nearest(layout, wanted)[1] in [("ops",), ("torch",)]
    (layout.wheels / "near" / "key.json").write_text("{")
    assert read_nearest(layout, wanted) == ("deepspeed-1.whl", ("torch",))


def test_copy_that_fails_leaves_the_target_as_it_was(tmp_path: Path, make_manifest) -> None:
    target = tmp_path / "out"
    with pytest.raises(FileNotFoundError):
        apply_copy(make_manifest(), source=tmp_path / "nowhere", target=target)
    assert list(target.iterdir()) == []

"""An environment made on a host from what was pushed to it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from provision.script import script_argv

#: In place of uv: says what it is asked, makes the environment's folder, and fails if told to.
FAKE_UV = """#!/bin/sh
echo "$@" >> "$HOME/asked"
env | grep -E '^(UV_|VIRTUAL_ENV|PYTHONPATH)' >> "$HOME/asked"
test "$1" = venv && for last; do :; done && mkdir -p "$last"
test "$2" = install && echo "Installed 1 package in 5ms"
test -e "$HOME/end" && test "$2" = install && kill -TERM $$
test -e "$HOME/fail" && test "$2" = install && echo "error: no room" && exit 1
exit 0
"""


@pytest.fixture
def home(tmp_path):
    """A host's home whose path has a space and an umlaut."""
    (tmp_path / "höme of me").mkdir()
    return tmp_path / "höme of me"


def put(home, name, content):
    sha256 = hashlib.sha256(content).hexdigest()
    folder = home / ".zerofleet" / "store" / sha256
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return [f".zerofleet/store/{sha256}/{name}", sha256]


def uv_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "uv.whl", "w") as archive:
        archive.writestr("uv-1.data/scripts/uv", FAKE_UV)
        archive.writestr("uv-1.data/scripts/uvx", "no")
    return (tmp_path / "uv.whl").read_bytes()


@pytest.fixture
def asked(home, tmp_path):
    return {
        "name": "abc",
        "python": sys.executable,
        "uv": put(home, "uv-1-py3-none-any.whl", uv_wheel(tmp_path)),
        "wheels": [put(home, "a_b-1+cpu-py3-none-any.whl", b"a wheel")],
    }


def install(home, asked):
    argv = script_argv("install", ["create", json.dumps(asked)])
    environ = {**os.environ, "HOME": str(home), "UV_INDEX_URL": "x", "VIRTUAL_ENV": "/elsewhere"}
    return subprocess.run(
        argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_made_from_the_store_alone_and_nothing_else_is_left(home, asked):
    done = install(home, asked)
    assert done.returncode == 0, done.stderr
    assert "ZEROFLEET-SAY Installed 1 package" in done.stdout
    venv, pip, check = (home / "asked").read_text().splitlines()
    assert venv.startswith("venv --offline --no-config")
    assert "--no-python-downloads" in venv
    assert {"--no-index", "--require-hashes", "--no-deps"} <= set(pip.split())
    assert check.startswith("pip check")
    envs = home / ".zerofleet" / "envs"
    assert sorted(path.name for path in envs.iterdir()) == ["abc", "abc.lock"]
    assert (envs / "abc" / "installed").exists()
    assert "installed already" in install(home, asked).stdout


def test_a_failed_one_says_why_and_leaves_no_mark(home, asked):
    (home / "fail").touch()
    failed = install(home, asked)
    assert (failed.returncode, failed.stderr) == (1, "uv: error: no room\n")
    assert not (home / ".zerofleet" / "envs" / "abc" / "installed").exists()
    assert not (home / ".zerofleet" / "envs" / "abc.work").exists()
    (home / "fail").unlink()
    again = install(home, asked)
    assert again.returncode == 0
    assert "removing a half-made environment" in again.stdout


def test_a_damaged_wheel_is_named_and_removed_so_that_it_is_pushed_anew(home, asked):
    (home / "fail").touch()  # uv finds another hash than it is told
    wheel = home / asked["wheels"][0][0]
    wheel.write_bytes(b"A wheel")
    failed = install(home, asked)
    assert failed.returncode == 1
    assert f"{wheel}: sha256 was" in failed.stderr
    assert not wheel.exists()


def test_one_that_is_ended_takes_its_work_with_it_and_blames_no_file(home, asked):
    (home / "end").touch()
    wheel = home / asked["wheels"][0][0]
    wheel.write_bytes(b"A wheel")
    ended = install(home, asked)
    assert (ended.returncode, ended.stderr) == (1, "uv was ended by signal 15\n")
    assert wheel.exists()
    assert not (home / ".zerofleet" / "envs" / "abc.work").exists()


def test_what_a_cut_off_deploy_still_makes_is_awaited_and_taken(home, asked):
    envs = home / ".zerofleet" / "envs"
    (envs / "abc").mkdir(parents=True)
    with (envs / "abc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            script_argv("install", ["create", json.dumps(asked)]),
            env={**os.environ, "HOME": str(home)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert second.stdout
        assert second.stdout.readline().endswith("makes this environment still: waiting for it\n")
        (envs / "abc" / "installed").touch()
    out, err = second.communicate()
    assert (second.returncode, err) == (0, "")
    assert out == "ZEROFLEET-SAY it is installed already\n"


def test_a_damaged_uv_is_never_run(home, asked):
    uv = home / asked["uv"][0]
    uv.write_bytes(uv.read_bytes() + b"x")
    failed = install(home, asked)
    assert "it is removed" in failed.stderr
    assert not uv.exists()
    assert not (home / "asked").exists()


def test_one_line_for_each_wheel_whatever_the_path(home, tmp_path):
    from provision.onhost import install as module

    line = module.requirement(f"{home}/a_b-1+cpu-py3-none-any.whl", "ab")
    assert line.startswith("a_b @ file:///")
    assert " of" not in line
    assert line.endswith("a_b-1%2Bcpu-py3-none-any.whl --hash=sha256:ab\n")


def test_uv_is_for_its_owner_alone(tmp_path):
    from provision.onhost import install as module

    uv_wheel(tmp_path)
    path = Path(module.unpack_uv(str(tmp_path / "uv.whl"), str(tmp_path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert path.read_text() == FAKE_UV

"""An environment made on a host from what was pushed to it."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import http.server
import json
import os
import stat
import subprocess
import sys
import threading
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


def test_every_damaged_file_is_removed_at_once_so_that_all_come_again_together(home, asked):
    (home / "fail").touch()
    asked["wheels"].append(put(home, "c_d-1-py3-none-any.whl", b"another"))
    wheels = [home / path for path, _ in asked["wheels"]]
    for wheel in wheels:
        wheel.write_bytes(b"rotten")
    failed = install(home, asked)
    assert all(f"{wheel}: sha256 was" in failed.stderr for wheel in wheels)
    assert not any(wheel.exists() for wheel in wheels)


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


class Index(http.server.SimpleHTTPRequestHandler):
    """An index of packages, whose answers may be kept."""

    def end_headers(self):
        self.send_header("ETag", '"1"')
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def index(tmp_path):
    """The address of an index with one package, x, and the sha256 of its wheel."""
    folder = tmp_path / "simple" / "x"
    folder.mkdir(parents=True)
    wheel = folder / "x-1-py3-none-any.whl"
    sha256 = make_wheel(wheel, "x")
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    serve = functools.partial(Index, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple", sha256
        server.shutdown()


def make_wheel(path, name):
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_made_from_the_hosts_own_index_and_pips_cache_is_ours(home, tmp_path, index, monkeypatch):
    url, sha256 = index
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_TRUSTED_HOST", "127.0.0.1")  # else pip keeps nothing of plain HTTP
    make_wheel(tmp_path / "own.whl", "own")
    text = f"x==1 --hash=sha256:{sha256}\n".encode()
    requirements, requirements_sha256 = put(home, "requirements.txt", text)
    asked = {
        "name": "abc",
        "python": sys.executable,
        "wheels": [put(home, "own-1-py3-none-any.whl", (tmp_path / "own.whl").read_bytes())],
        "requirements": requirements,
        "requirements_sha256": requirements_sha256,
    }
    done = install(home, asked)
    assert done.returncode == 0, done.stderr
    python = home / ".zerofleet" / "envs" / "abc" / "bin" / "python"
    subprocess.run([python, "-c", "import x, own"], check=True)
    assert list((home / ".zerofleet" / "pip").rglob("*"))
    assert not (home / ".cache").exists()

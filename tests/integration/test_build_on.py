"""A wheel built on one of its hosts, with an extra one from source beside it; then deployed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provision.build.source import apply_unpack
from provision.demo.fleet import apply_start_fleet, apply_stop_fleet
from provision.wheel.manifest import read_wheel, sha256_of

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun, ZfStart

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "hjson"
version = "3.1.0+ours"
[tool.setuptools]
packages = ["hjson"]
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Fleet]:
    """One host, which finds in its own cache what these tests have built so far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache / "xdg"))
        # No space in this one's path: ninja could not handle it, and the build would say so.
        folder = tmp_path_factory.mktemp("builder") / "host"
        running = apply_start_fleet(folder, n=1, settings={"wheels": str(folder / "wheels")})
    yield running
    apply_stop_fleet(running)


@pytest.fixture(scope="module")
def built(cache: Path, zf_run: ZfRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build cache, with the default CPU wheel in it."""
    out = tmp_path_factory.mktemp("here")
    done = zf_run(["build-deepspeed", "--accelerator", "cpu", "--wheels", str(out)], out)
    assert done.returncode == 0, done.stderr[-3000:]
    return cache / "xdg" / "zerofleet" / "build"


@pytest.fixture(scope="module")
def project(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the user's own in place of a locked package, which DeepSpeed imports."""
    folder = tmp_path_factory.mktemp("sources") / "my-hjson"
    # Other tests' environments may lie beside it; the locked package is the same in each.
    found = sorted(built.glob("environments/cp*-torch2.13.0-*/lib/python*/site-packages/hjson"))
    original = found[0]
    shutil.copytree(original, folder / "hjson", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def at_work(host_home: Path) -> list[str]:
    """Command lines of the processes that were started on the host."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"HOME={host_home}".encode() in environ:
            found.append(command[:200])
    return found


def test_wheels_of_a_host_are_deployed(
    builder: Fleet, built: Path, project: Path, zf_run: ZfRun
) -> None:
    argv = ["build-deepspeed", "--on", "node1", "--hosts", "hosts.txt"]
    done = zf_run([*argv, "--with-source", str(project), "--json"], builder.folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "for 1 hosts: accelerator cpu, CPU x86-64-v" in done.stderr
    assert "[node1] zf: making " in done.stderr
    assert "[node1] building a wheel of my-hjson" in done.stderr
    wheels, answer = builder.folder / "wheels", json.loads(done.stdout)
    manifest = read_wheel(wheels)  # the file is the one that its manifest speaks of
    assert answer["manifest"] == manifest.as_json()
    assert manifest.ops == ("cpu_adam", "shm_comm")
    (extra,) = answer["extras"]
    assert (extra["name"], extra["version"]) == ("hjson", "3.1.0+ours")
    assert sha256_of(wheels / extra["wheel"]) == extra["sha256"]
    assert len(list(wheels.iterdir())) == 4

    again = zf_run([*argv, "--with-source", str(project), "--json"], builder.folder)
    assert "push:" not in again.stderr
    assert json.loads(again.stdout)["cached"]
    assert "nothing to do: hjson-3.1.0+ours-py3-none-any.whl" in again.stderr

    deployed = zf_run(["deploy", "--json"], builder.folder)
    assert deployed.returncode == 0, deployed.stderr[-3000:]
    python = builder.hosts[0].home / ".zerofleet" / "current" / "bin" / "python"
    asked = "import hjson, importlib.metadata as m; print(m.version('hjson'), hjson.loads('{}'))"
    said = subprocess.run([python, "-I", "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("3.1.0+ours ")


def test_ctrl_c_ends_the_compilers_on_the_host(
    builder: Fleet, built: Path, zf_start: ZfStart, tmp_path: Path
) -> None:
    (archive,) = built.glob("sources/*/deepspeed-*.tar.gz")
    source = tmp_path / "source"
    apply_unpack(archive, source)
    for path in source.glob("csrc/pin_memory/*.cpp"):  # so that no object of it is kept
        path.write_text(f"// {tmp_path}\n{path.read_text()}")
    argv = ["build-deepspeed", "--on", "node1", "--ops", "pin_memory", "--source", str(source)]
    build = zf_start([*argv, "--wheels", str(tmp_path / "out")], builder.folder)
    home = builder.hosts[0].home
    while not any("cc1plus" in command for command in at_work(home)):
        assert build.poll() is None, build.communicate()[1]
        time.sleep(0.1)  # bounded by the test's own timeout
    os.kill(build.pid, signal.SIGINT)
    _out, err = build.communicate()
    assert build.returncode == 130, err
    while at_work(home):
        time.sleep(0.1)
    assert not (tmp_path / "out").exists()
    assert not list(home.glob(".zerofleet/wheels/*pinmemory*"))


def test_hosts_that_cannot_build(
    builder: Fleet, zf_run: ZfRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = zf_run(["build-deepspeed", "--on", "node9"], builder.folder)
    assert unknown.returncode == 3
    assert "node9: ssh: found no address" in unknown.stderr
    gpus = zf_run(
        ["build-deepspeed", "--on", "node1", "--hosts", "hosts.txt", "--arch", "8.0"],
        builder.folder,
        environ={"INVOKE_ZEROFLEET_ACCELERATOR": "cuda"},
    )
    assert gpus.returncode == 1
    assert "node1: gpu: found none, expected a GPU" in gpus.stderr
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        bare = apply_start_fleet(tmp_path / "bare", n=1)
    try:
        done = zf_run(["build-deepspeed", "--on", "node1"], bare.folder)
    finally:
        apply_stop_fleet(bare)
    assert done.returncode == 1
    assert "node1: " in done.stderr
    assert "python" in done.stderr.lower()
    assert done.stderr.count("\n") == 1

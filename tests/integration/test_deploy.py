"""Deploy onto bare hosts: on every host or on none, and on from where it broke off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun, ZfStart


def installing_in(homes: list[Path]) -> list[str]:
    """Commands of the installations at work on hosts with these homes."""
    found, owned = [], {f"HOME={home}".encode() for home in homes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if ".work/uv pip install" in command and owned & {*environ}:
            found.append(command[:200])
    return found


@pytest.fixture(scope="module", autouse=True)
def wheel(fleet: Fleet, zf_run: ZfRun) -> None:
    """A wheel to deploy, from the cache if another test built it."""
    built = zf_run(["build-deepspeed"], fleet.folder)
    assert built.returncode == 0, built.stderr


def deploy_again(fleet: Fleet, zf_run: ZfRun) -> dict[str, Any]:
    """The answer of a deploy that finds every host as it was: once they say so in time, that is."""
    for _ in range(5):
        done = zf_run(["deploy", "--json"], fleet.folder)
        if "every host is as it was on" in done.stderr:
            break
    assert "every host is as it was on" in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_ctrl_c_ends_the_work_on_the_hosts(fleet: Fleet, zf_start: ZfStart) -> None:
    homes = [host.home for host in fleet.hosts]
    deploy = zf_start(["deploy", "--json"], fleet.folder)
    while not installing_in(homes):
        assert deploy.poll() is None, deploy.communicate()[1]
        time.sleep(0.1)  # bounded by the test's own timeout
    os.kill(deploy.pid, signal.SIGINT)
    out, err = deploy.communicate()
    assert deploy.returncode == 130, err
    assert json.loads(out)["exit"] == 130
    while installing_in(homes):
        time.sleep(0.1)
    # It was ended while it unpacked; left alone it would have come to this mark.
    assert not list(homes[0].glob(".zerofleet/envs/*/installed"))


def test_one_host_that_fails_leaves_every_host_as_it_was(fleet: Fleet, zf_run: ZfRun) -> None:
    first, second = (host.home / ".zerofleet" for host in fleet.hosts)
    shutil.rmtree(second, ignore_errors=True)
    second.mkdir()
    (second / "envs").write_text("in the way of a folder")

    broken = zf_run(["deploy", "--json"], fleet.folder)
    assert broken.returncode == 1, broken.stderr
    assert "node2: make ~/.zerofleet/envs/" in json.loads(broken.stdout)["error"]["what"]
    assert "File exists" in broken.stderr
    assert not (first / "current").exists()
    assert not list(first.glob("envs/*/complete.json"))

    (second / "envs").unlink()
    mended = zf_run(["deploy", "--json"], fleet.folder)
    assert mended.returncode == 0, mended.stderr
    assert "[node1] it is installed already" in mended.stderr
    answer = json.loads(mended.stdout)
    assert {host["changed"] for host in answer["hosts"].values()} == {True}
    assert answer["hosts"]["node1"]["bytes_sent"] == 0  # its store had it from the first time
    for home in (first, second):
        assert (home / "current").resolve() == next(home.glob("envs/*/complete.json")).parent

    same = deploy_again(fleet, zf_run)
    assert {host["changed"] for host in same["hosts"].values()} == {False}
    assert {host["env"] for host in same["hosts"].values()} == {
        host["env"] for host in answer["hosts"].values()
    }

    os.utime(second / "current" / "complete.json")  # proved again, as far as can be seen
    seen = zf_run(["deploy", "--json"], fleet.folder)
    assert "not every host is as it was" in seen.stderr
    whole = json.loads(seen.stdout)
    assert {**whole, "findings": []} == {**same, "findings": []}
    assert deploy_again(fleet, zf_run) == whole  # nothing that a whole look finds is left out

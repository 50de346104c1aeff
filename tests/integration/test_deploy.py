"""Deploy onto bare hosts: on every host or on none, and on from where it broke off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


def test_one_host_that_fails_leaves_every_host_as_it_was(fleet: Fleet, zf_run: ZfRun) -> None:
    built = zf_run(["build-deepspeed"], fleet.folder)
    assert built.returncode == 0, built.stderr
    first, second = (host.home / ".zerofleet" for host in fleet.hosts)
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

    again = zf_run(["deploy", "--json"], fleet.folder)
    answer = json.loads(again.stdout)
    assert {host["changed"] for host in answer["hosts"].values()} == {False}

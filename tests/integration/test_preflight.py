"""Preflight on two healthy hosts: nothing to say, nothing left behind. Faults: faults/."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


#: Warnings about this machine, which does other tests beside: rightly given, or not.
BUSY = {("cpu speed", "warn"), ("memory plan", "warn")}


def preflight(fleet: Fleet, zf_run: ZfRun, *args: str) -> dict[str, Any]:
    done = zf_run(["preflight", *args, "--json"], fleet.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def programs_of(fleet: Fleet) -> list[str]:
    """What runs in these hosts' homes: programs that were sent there."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environ = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if any(f"HOME={host.home}".encode() in environ for host in fleet.hosts):
            found.append(command)
    return found


def test_the_deep_test_measures_every_pair_and_leaves_nothing(
    deployed: Fleet, zf_run: ZfRun
) -> None:
    before = programs_of(deployed)
    findings = preflight(deployed, zf_run, "--deep")["findings"]
    odd = [f for f in findings if f["level"] != "ok"]
    assert [f for f in odd if (f["subject"], f["level"]) not in BUSY] == []
    for subject in ("ports", "packets", "bandwidth", "all-reduce", "pairs"):
        told = sorted(f["host"] for f in findings if f["subject"] == subject)
        assert told == ["node1", "node2"], subject
    while sorted(programs_of(deployed)) != sorted(before):  # bounded by the test's own timeout
        time.sleep(0.1)  # what runs there ends with its connection, after the command


def test_model_and_data_that_differ_are_told_with_the_file(
    deployed: Fleet, zf_run: ZfRun, tmp_path: Path
) -> None:
    """Paths from ~/ are each host's own, so two hosts on one machine can differ."""
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    try:
        for number, host in enumerate(deployed.hosts):
            rows = [json.dumps(row)] * (number + 1)
            (host.home / "preflight.jsonl").write_text("\n".join(rows) + "\n")
        done = zf_run(["preflight", "--data", "~/preflight.jsonl"], deployed.folder)
    finally:
        for host in deployed.hosts:
            (host.home / "preflight.jsonl").unlink(missing_ok=True)
    assert done.returncode == 1
    for name in ("node1", "node2"):
        assert f"error: {name}: data bytes: found sha256" in done.stderr
    assert "expected one on all hosts: it is ~/preflight.jsonl: copy" in done.stderr

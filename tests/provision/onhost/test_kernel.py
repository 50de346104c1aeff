"""What the kernel said of a rank's end: its own lines, as recorded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from provision.onhost import kernel
from provision.onhost.kernel import evidence, parse_records, read_evidence

RECORDED = (Path(__file__).parents[2] / "facts" / "kernel" / "oom-cgroup.kmsg").read_text()
XIDS = """\
4,1022,9140900,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.
4,1023,9140901,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.
6,1024,9140999,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module
"""


def test_who_was_ended_for_want_of_memory() -> None:
    killed = "Memory cgroup out of memory: Killed process 28625 (python3)"
    assert evidence(parse_records(RECORDED, 0.0)) == [killed]
    at = int(RECORDED.splitlines()[-1].split(",")[2]) / 1e6
    assert evidence(parse_records(RECORDED, at - 1)) == [killed]
    assert parse_records(RECORDED, at + 1) == []


def test_gpus_that_failed_each_said_once() -> None:
    assert evidence(parse_records(XIDS, 0.0)) == [
        "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus."
    ]


def test_only_what_was_said_since(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    line = "3,7,%d,-;Out of memory: Killed process %d (python) total-vm:1kB"
    text = "\n".join(line % ((now - ago) * 1e6, pid) for pid, ago in ((1, 60), (2, 2)))
    monkeypatch.setattr(kernel, "read_kmsg", lambda: text)
    assert read_evidence(time.time() - 30) == ["Out of memory: Killed process 2 (python)"]


def test_without_the_kernel_s_buffer_the_journal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "read_kmsg", lambda: None)
    said = ["oom", "Out of memory: Killed process 9 (python) total-vm:1kB"]
    monkeypatch.setattr(kernel, "read_journal", lambda began: said if began == 5.0 else [])
    assert read_evidence(5.0) == ["Out of memory: Killed process 9 (python)"]

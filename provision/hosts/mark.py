"""Whether a host is what it was, told by a text of its own: its mark.

onhost/mark.sh reads what those facts depend on that a deploy goes by (COVERED): the boot's id,
driver and GPUs, C libraries, Pythons, cgroup limits, the environment in use. While a host's mark is
the same, these facts of it are. All else (free memory and disk, clocks, processes on GPUs) changes
at any time, whatever a mark says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_SCRIPT = Path(__file__).resolve().parents[1] / "onhost" / "mark.sh"
#: Facts that stay what they are while the mark does.
COVERED = frozenset({
    "boot_id", "cpu.cores", "cpu.level", "cpu.model", "cpu.quota", "environment", "environments",
    "glibc", "glibcxx", "gpu.driver", "gpu.mig", "gpu.nvlink", "gpu.pci", "gpu.unread", "gpus",
    "home", "home.id", "home.place", "infiniband", "interfaces", "kernel", "machine", "memory",
    "memory.limit", "namespaces", "os", "pythons", "routes", "toolkit",
})  # fmt: skip
_BEGIN, _END = "ZEROFLEET-MARK\n", "\nZEROFLEET-END"
#: Without these a mark says too little: which boot it is, and that there is an environment.
_NEEDED = (
    re.compile(r"^/proc/sys/kernel/random/boot_id:[0-9a-f-]{36}$", re.MULTILINE),
    re.compile(r"^current /.", re.MULTILINE),
    re.compile(r"^complete\.json [0-9a-f]+ \d+:\d+ \d+ ", re.MULTILINE),
)


def read_mark_argv() -> tuple[str, ...]:
    """Argv that has a host tell its mark: one line, which every login shell takes as it is."""
    lines = (line.strip() for line in _SCRIPT.read_text(encoding="utf-8").splitlines())
    return ("sh", "-c", " ".join(line for line in lines if line and not line.startswith("#")))


def parse_mark(said: str) -> str | None:
    """The mark in what a host said, whatever its login shell says besides; None if not whole."""
    _, begun, rest = said.partition(_BEGIN)
    mark, ended, _ = rest.partition(_END)
    whole = begun and ended and all(pattern.search(mark) for pattern in _NEEDED)
    return mark if whole else None


def changed(then: Mapping[str, str], now: Mapping[str, str | None]) -> tuple[str, ...]:
    """Hosts of which it can't be said, by their marks, that they are what they were."""
    hosts = dict.fromkeys([*now, *then])
    return tuple(host for host in hosts if not then.get(host) or now.get(host) != then[host])

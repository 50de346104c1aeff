"""Whether hosts are what they were when all their facts were read, told by a text of theirs.

onhost/mark.sh reads what those facts depend on that deploy goes by (KEPT): the boot's id, driver
and GPUs, C libraries, Pythons, cgroup limits, the environment in use. A host whose mark is the same
has the same facts of these. All else (free memory and disk, clocks, processes on GPUs) changes at
any time, so it is not kept at all: whoever asks for it finds it unknown.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ONHOST = Path(__file__).resolve().parents[1] / "onhost"
#: Facts that stay what they are while the mark does.
KEPT = frozenset({
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
    text = (_ONHOST / "mark.sh").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return ("sh", "-c", " ".join(line for line in lines if line and not line.startswith("#")))


def parse_mark(said: str) -> str | None:
    """The mark in what a host said, whatever its login shell says besides; None if not whole."""
    _, begun, rest = said.partition(_BEGIN)
    mark, ended, _ = rest.partition(_END)
    whole = begun and ended and all(pattern.search(mark) for pattern in _NEEDED)
    return mark if whole else None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What hosts were when all was read: each one's mark just before that, and then its facts.

    ``reader``: a digest of the programs that read them; ``at``: when, as time.time() has it.
    """

    reader: str
    at: float
    marks: Mapping[str, str]
    facts: Mapping[str, Mapping[str, Any]]


def read_reader() -> str:
    """A digest of what reads marks and facts here: other programs may mean other things."""
    found = hashlib.sha256()
    for path in sorted(_ONHOST.glob("probe*.py")):
        found.update(path.read_bytes())
    found.update((_ONHOST / "mark.sh").read_bytes())
    return found.hexdigest()


def changed(known: Known, marks: Mapping[str, str | None]) -> tuple[str, ...]:
    """Hosts of which it can't be said that they are what they were."""
    return tuple(
        host
        for host in marks.keys() | known.marks.keys() | known.facts.keys()
        if not known.marks.get(host)
        or host not in known.facts
        or marks.get(host) != known.marks[host]
    )


def read_known(path: Path) -> Known | None:
    """What was kept in a file; None where there is nothing that can be gone by."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Known(
            reader=str(kept["reader"]), at=float(kept["at"]), marks=dict(kept["marks"]),
            facts={host: dict(facts) for host, facts in kept["facts"].items()},
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def apply_known(path: Path, known: Known) -> None:
    """Keep it: whole or not at all, and for this user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(vars(known)), encoding="utf-8")
    fresh.replace(path)

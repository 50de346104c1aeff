"""What the kernel said of processes it ended and of GPUs that failed, while a run went on.

From /dev/kmsg, else from systemd's journal; who may read neither learns nothing, and says nothing.
Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import os
import re
import time

from provision.onhost.command import read_command

MOST = 8  # lines that are kept: a GPU that fell off the bus repeats itself
JOURNAL_SECONDS = 5.0
#: As mm/oom_kill.c and NVIDIA's driver write them (https://docs.nvidia.com/deploy/xid-errors/).
OOM = re.compile(r"(?:Memory cgroup out|Out) of memory: Killed process \d+ \([^)]*\)")
XID = re.compile(r"NVRM: Xid \((?:PCI:)?[^)]+\): (?P<number>\d+).*")
#: Those that no program causes: memory that can't be corrected (48, 63, 64, 94, 95), NVLink (74),
#: off the bus (79), the GPU's own processor (119, 120). 13, 31, 43 and 45 may be a program's doing:
#: https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html
HARDWARE = (48, 63, 64, 74, 79, 94, 95, 119, 120)


def parse_records(text: str, since: float) -> list[str]:
    """Lines of /dev/kmsg ("level,number,microseconds,flags;text") from ``since`` on, in seconds of
    its own clock: https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg
    """
    found = []
    for record in text.splitlines():
        head, _, said = record.partition(";")
        fields = head.split(",")
        if len(fields) >= 4 and fields[2].isdigit() and int(fields[2]) / 1e6 >= since:
            found.append(said)
    return found


def evidence(lines: list[str]) -> list[str]:
    """What of the kernel's lines explains a rank's end."""
    matches = (OOM.search(line) or XID.search(line) for line in lines)
    return list(dict.fromkeys(match.group() for match in matches if match))[:MOST]


def xids(lines: list[str]) -> list[str]:
    """Those that tell of a GPU's error, of its hardware first."""
    found = [match for match in map(XID.match, lines) if match]
    return [m.group() for m in sorted(found, key=lambda m: int(m["number"]) not in HARDWARE)]


def gpu_failed(lines: list[str]) -> str:
    """The line by which a GPU failed here, whatever ran on it; empty if none did."""
    worst = XID.match("".join(xids(lines)[:1]))
    return worst.group() if worst and int(worst["number"]) in HARDWARE else ""


def read_kmsg() -> str | None:
    """All that is in the kernel's buffer; None where that may not be read."""
    try:
        source = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    records = []
    try:
        while True:
            try:
                records.append(os.read(source, 8192))
            except BlockingIOError:
                break
            except BrokenPipeError:  # a record was overwritten while we read: go on with the next
                continue
    except OSError:
        return None
    finally:
        os.close(source)
    return b"".join(records).decode("utf-8", "replace")


def read_journal(began: float) -> list[str]:
    """The kernel's lines in systemd's journal since a time of day; none where it is not ours."""
    argv = ["journalctl", "--dmesg", "--quiet", "--no-pager", "--output=cat", "--since=@%d" % began]
    return (read_command(argv, JOURNAL_SECONDS) or "").splitlines()


def read_evidence(began: float) -> list[str]:
    """What the kernel said that explains a rank's end, since ``began`` (seconds since 1970)."""
    text = read_kmsg()
    if text is None:
        return evidence(read_journal(began))
    # The buffer's clock counts from boot, and not while the host slept: neither does this one.
    return evidence(parse_records(text, time.monotonic() - (time.time() - began) - 1.0))

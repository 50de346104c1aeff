"""What the kernel said of processes it ended and of GPUs that failed, while a run went on.

From /dev/kmsg, else from systemd's journal; who may read neither learns nothing, and says nothing.
Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import os
import re
import subprocess
import time

MOST = 8  # lines that are kept: a GPU that fell off the bus repeats itself
JOURNAL_SECONDS = 5.0
#: As mm/oom_kill.c and NVIDIA's driver write them (https://docs.nvidia.com/deploy/xid-errors/).
OOM = re.compile(r"(?:Memory cgroup out|Out) of memory: Killed process \d+ \([^)]*\)")
XID = re.compile(r"NVRM: Xid \((?:PCI:)?[^)]+\): \d+.*")


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
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=JOURNAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode("utf-8", "replace").splitlines() if done.returncode == 0 else []


def read_evidence(began: float) -> list[str]:
    """What the kernel said that explains a rank's end, since ``began`` (seconds since 1970)."""
    text = read_kmsg()
    if text is None:
        return evidence(read_journal(began))
    # The buffer's clock counts from boot, and not while the host slept: neither does this one.
    return evidence(parse_records(text, time.monotonic() - (time.time() - began) - 1.0))

"""Follow one node of a run: its log, its metrics and its end, as they happen.

    follow.py RUN_DIR [--from-offsets '{"log": 1234, "metric": 567}'] [--tail N] [--once]

Standard library only, Python >= 3.8, Linux; it is sent to hosts with the files that it imports.
Writes one JSON object a line to stdout:

    {"log": "a line of node.log", "offset": 1234}    the offset after it, in bytes, to go on from
    {"metric": {...}, "offset": 567}                 a line of metrics.jsonl, parsed
    {"alive": 1700000000.0, "pace": [{...}, …]}      every few seconds: the connection lives; and
                                                     the last line of each rank's pace file
    {"exit": {...}}                                  exit.json; the last line, exit code 0
    {"lost": "why"}                                  the supervisor is gone without exit.json; the
                                                     last line, exit code 1

``--tail N`` begins with the last N lines of each file that offsets do not name; ``--once`` ends,
with exit code 0, after what is there now. A line still being written waits for its end, or for the
run's. Ends at once, with exit code 0,
when nobody reads stdout any more.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import select
import sys
import time
from typing import Any, Iterator

from provision.onhost.state import NEVER_STARTED, read_state

POLL = 0.2  # seconds: a person doesn't notice; two stat() and one read of /proc a turn
ALIVE = 5.0  # seconds between heartbeats, see above
NO_RECORD = 10.0  # seconds to wait for record.json; the supervisor writes it before it answers
LONGEST = 1 << 16  # bytes of one line; longer ones are cut into several
PACE = 4096  # bytes from the end of a pace file: its last line, and more
CHUNK = 1 << 20  # bytes read at once from a log that is far ahead


def read_pace(run_dir: str) -> list[dict[str, Any]]:
    """The last whole line of each rank's pace file (trainer/pace.py), of the ranks of this host."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), "pace", "rank*.jsonl"))):
        try:
            with open(path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - PACE))
                lines = file.read().split(b"\n")[:-1]
            line = json.loads(lines[-1])
        except (OSError, ValueError, IndexError):
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


class Tail:
    """Complete lines of a growing file, from a byte offset on; the file may not exist yet."""

    def __init__(self, path: str, offset: int) -> None:
        self.path = path
        self.offset = offset  # after the last line given out

    def read(self, final: bool) -> Iterator[tuple[str, int]]:
        """(line, offset after it) of what is complete; with ``final`` the rest too."""
        while True:
            try:
                with open(self.path, "rb") as file:
                    file.seek(self.offset)
                    data = file.read(CHUNK)
            except FileNotFoundError:
                return
            before = self.offset
            yield from self.split(data, final and len(data) < CHUNK)
            if self.offset == before:
                return

    def split(self, data: bytes, final: bool) -> Iterator[tuple[str, int]]:
        """The lines of ``data``, which starts at ``self.offset``; moves the offset on."""
        while data:
            end = data.find(b"\n", 0, LONGEST)
            if end < 0 and len(data) < LONGEST and not final:
                return
            taken = end + 1 if end >= 0 else min(len(data), LONGEST)
            line, data = data[:taken], data[taken:]
            self.offset += taken
            yield line.decode("utf-8", "replace").rstrip("\r\n"), self.offset


def last_lines(path: str, count: int) -> int:
    """The offset in bytes where the last ``count`` lines of a file begin; 0 without a file."""
    try:
        with open(path, "rb") as file:
            begin = file.seek(0, os.SEEK_END)
            tail = b""
            # One line end more than lines: the one before the first of them.
            while begin > 0 and tail.rstrip(b"\n").count(b"\n") < count:
                size = min(LONGEST, begin)
                begin -= size
                file.seek(begin)
                tail = file.read(size) + tail
    except FileNotFoundError:
        return 0
    lines = tail.split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    return begin + sum(len(line) + 1 for line in lines[: max(0, len(lines) - count)])


def events(log: Tail, metrics: Tail, final: bool) -> Iterator[dict[str, Any]]:
    """What is new in a run's two growing files."""
    for line, offset in log.read(final):
        yield {"log": line, "offset": offset}
    for line, offset in metrics.read(final):
        try:
            yield {"metric": json.loads(line), "offset": offset}
        except ValueError:
            yield {"log": "metrics.jsonl: not JSON: " + line, "offset": log.offset}


def say(event: dict[str, Any]) -> None:
    """One event, at once; BrokenPipeError when nobody reads."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def wait(reader_gone: select.poll) -> None:
    """Wait one POLL; BrokenPipeError as soon as the reading end of stdout is closed."""
    if reader_gone.poll(POLL * 1000):
        raise BrokenPipeError


def tail_of(path: str, offset: int | None, tail: int | None) -> Tail:
    """A file's lines from an offset on, else its last ``tail`` lines, else all."""
    if offset is None:
        offset = 0 if tail is None else last_lines(path, tail)
    return Tail(path, offset)


def follow(run_dir: str, offsets: dict[str, int], tail: int | None, once: bool) -> int:
    """Say what happens until the run ends; the exit code."""
    log = tail_of(os.path.join(run_dir, "node.log"), offsets.get("log"), tail)
    metrics = tail_of(os.path.join(run_dir, "metrics.jsonl"), offsets.get("metric"), tail)
    reader_gone = select.poll()
    reader_gone.register(sys.stdout.fileno(), 0)  # POLLERR and POLLHUP are always reported
    started, alive = time.monotonic(), 0.0
    while True:
        # First how it stands: a run that has ended has written its logs before exit.json.
        now, late = read_state(run_dir), time.monotonic() - started > NO_RECORD
        ended, lost = now["exit"], now["why"]
        if now["state"] == NEVER_STARTED and late:
            lost = "no supervisor has started this run"
        for event in events(log, metrics, final=bool(ended or lost or once)):
            say(event)
        if once:
            return 0
        if ended or lost:
            say({"exit": ended} if ended else {"lost": lost})
            return 0 if ended else 1
        if time.monotonic() - alive >= ALIVE or not alive:
            alive = time.monotonic()
            say({"alive": time.time(), "pace": read_pace(run_dir)})
        wait(reader_gone)


def main(arguments: list[str]) -> int:
    """The exit code; 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="follow.py")
    parser.add_argument("run_dir")
    parser.add_argument("--from-offsets", type=json.loads, default={})
    parser.add_argument("--tail", type=int)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args(arguments)
    run_dir = os.path.abspath(os.path.expanduser(options.run_dir))
    try:
        if not os.path.isdir(run_dir):
            say({"lost": "no such run folder: %s" % run_dir})
            return 1
        return follow(run_dir, options.from_offsets, options.tail, options.once)
    except BrokenPipeError:
        # Python flushes stdout on its way out: give it something that can be written to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

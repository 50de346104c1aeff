"""A stop that lets our own trainers save: one checkpoint, whole on all hosts, before any SIGTERM.

Global rank 0 looks, after each step, for the file that $ZEROFLEET_PAUSE_FILE names on its host
(trainer/pausing.py). Node 0's supervisor makes it there to ask, and decides how long that may take;
the others follow its word, and tell it whether ranks of theirs read or write anything. The file is

    empty           while the step that runs, or an evaluation, goes on: ``grace`` seconds, and as
                    long as two steps take. Each look of an evaluation touches it: it lives
    saving step N   on each host, while all ranks save: as long as any rank of any host reads or
                    writes (over the network, too), and ``stalled`` seconds in which none does
    empty, still    while the result of a run that has made its last step is saved: as for a save
    step N          once all have saved: they end by themselves, within ``grace`` seconds
    gone            when that took too long, or a rank or host failed meanwhile: SIGTERM comes

A run whose plan names no such file, a script's, gets SIGTERM at once.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any, Callable, Mapping

from provision.onhost.folder import read_text

PAUSE_FILE = "ZEROFLEET_PAUSE_FILE"
PAUSING, SAVING = "pausing", "saving"  # what supervisors tell one another meanwhile
MOVES = 1 << 20  # bytes a second; what only looks on, or logs, moves less
LOOK_EVERY = 1.0  # seconds


def step_seconds(metrics: str) -> float:
    """Seconds that a step took lately, from the end of a metrics.jsonl; 0.0 if none can be known"""
    found = []
    for line in metrics.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            if event["event"] in ("begin", "step"):
                number = event["first_step" if event["event"] == "begin" else "step"]
                found.append((int(number), float(event["at"])))
    if len(found) < 2 or found[-1][0] <= found[-2][0]:
        return 0.0
    (before, then), (step, at) = found[-2:]
    return max(0.0, (at - then) / (step - before))


def finished(metrics: str) -> bool:
    """Whether the last step has been made: what goes on saves, or evaluates, the result."""
    for line in reversed(metrics.splitlines()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            if event["event"] == "step":
                return bool(event["step"] >= event["total_steps"])
    return False


class Pausing:
    """The pause of one node. Times are of its monotonic clock."""

    def __init__(self, run_dir: str, plan: Mapping[str, Any], limits: Mapping[str, float]) -> None:
        self.metrics, self.limits = os.path.join(run_dir, "metrics.jsonl"), limits
        self.file = plan["environ"].get(PAUSE_FILE, "")
        self.first = plan["node_rank"] == 0
        self.on = self.last = False  # last: no step is left to make
        self.state = PAUSING
        self.deadline: float | None = None
        self.stamp: tuple[str, int] | None = None
        self.looked, self.moved = float("-inf"), 0

    def begin(self, now: float) -> bool:
        """Ask the trainer to save, if it can be asked and has begun to train."""
        if not self.file or (self.first and not os.path.exists(self.metrics)):
            return False
        if self.first:
            with contextlib.suppress(OSError):  # a disk that is full takes no checkpoint either
                os.close(os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o600))
                self.on = True
            self.deadline = now + self.limits["grace"] + 2 * step_seconds(read_text(self.metrics))
        else:
            self.on = True
        return self.on

    def text(self) -> str:
        """What the file says; empty while it says nothing, or is not there."""
        with contextlib.suppress(OSError):
            return read_text(self.file).strip() if self.file else ""
        return ""

    @property
    def saved_step(self) -> int | None:
        """The step that all ranks have saved and ended at; None where they have not."""
        found = re.match(r"step (\d+)$", self.text())
        return int(found.group(1)) if found else None

    def over(self, now: float, peers: Mapping[int, str], read_moved: Callable[[], int]) -> str:
        """Why this is to be waited for no longer; empty while it is. ``state``: what to tell.

        ``peers``: what the others told last, by node_rank; ``read_moved``: bytes, ever more.
        """
        bad = [rank for rank, state in peers.items() if state in ("stopping", "failed")]
        if bad:
            return "node_rank %d stops" % bad[0]
        text, moves = self.text(), self._moves(now, read_moved)
        self.state = SAVING if moves else PAUSING
        if self.first:
            return self._late(now, text, moves or SAVING in peers.values())
        if peers.get(0) in ("stopped", "finished"):
            self.deadline = self.deadline or now + self.limits["grace"]
        return "its ranks did not end" if self.deadline and now > self.deadline else ""

    def _moves(self, now: float, read_moved: Callable[[], int]) -> bool:
        if now - self.looked < LOOK_EVERY:
            return self.state == SAVING
        before, self.moved = self.moved, read_moved()
        since, self.looked = self.looked, now
        return since > float("-inf") and self.moved - before >= MOVES * (now - since)

    def _late(self, now: float, text: str, moves: bool) -> str:
        try:
            stamp = (text, os.stat(self.file).st_mtime_ns)
        except OSError:
            return "its file was taken away"
        saving, changed = text.startswith(SAVING) or self.last, stamp != self.stamp
        if (changed and (text or self.stamp is not None)) or (saving and moves):
            wait = max(self.limits["grace"], self.limits["stalled"] if saving else 0.0)
            self.deadline = max(self.deadline or now, now + wait)
        self.stamp = stamp
        if self.deadline is None or now <= self.deadline:
            return ""
        if not saving and finished(read_text(self.metrics)):
            self.last, self.deadline = True, now + self.limits["stalled"]
            return ""
        return "nothing moved while it saved" if saving else "the step, or the end, took too long"

    def end(self) -> None:
        """It is over, and no rank is to begin a save any more."""
        self.on = False
        if self.saved_step is None:
            with contextlib.suppress(OSError):
                os.unlink(self.file)

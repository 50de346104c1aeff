"""The ranks of a torchrun that lives: whether one has failed, though torchrun doesn't say so yet.

torchrun ends, and says which rank failed first, only when all others of its node have ended: after
30 s, whatever else is set, where one of them heeds no SIGTERM (SubprocessContext._poll and close,
torch/distributed/elastic/multiprocessing/api.py; DeepSpeed's launcher waits as long). A rank that
has written its error and hangs on its way out, torchrun doesn't notice at all.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8, Linux.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import signal
from typing import Any

from provision.onhost.ending import read_failure
from provision.onhost.folder import read_lines, write_json
from provision.onhost.processes import (
    LOOK_EVERY,
    read_children,
    read_exit_code,
    read_moved_bytes,
    read_rank,
    read_stat,
)
from provision.onhost.symptoms import exit_reason, is_symptomatic_end

# What torchrun, and DeepSpeed's launcher, log when they begin to end the ranks that are left. A
# line of a rank's own begins with its name.
CLOSING = re.compile(
    rb"^(?!\[rank )[^\n]*(?:Sending process (\d+) closing signal|Killing subprocess (\d+))", re.M
)
CHUNK = 1 << 20  # bytes of node.log read at one look
KNOWN = "ranks.json"  # of a run's folder: the pid and start time of each rank that began


class Ranks:
    """The ranks of one torchrun, by pid, since they were first seen.

    ``limit``: seconds that a rank which has written its error may take to end.
    """

    def __init__(self, run_dir: str, plan: dict[str, Any], torchrun: int, limit: float) -> None:
        self.run_dir, self.plan, self.torchrun, self.limit = run_dir, plan, torchrun, limit
        self.known: dict[int, dict[str, int]] = {}  # pid: rank, local_rank and start_time
        self.seen: dict[int, float] = {}  # when it was last alive
        self.erred: dict[int, float] = {}  # when its error was first there, by local rank
        self.closing = False  # whether torchrun itself ends what is left
        self.looked = float("-inf")
        self.offset = 0  # in node.log

    def read_failed(self, now: float, *, at_once: bool = False) -> dict[str, Any] | None:
        """Which rank has failed, since when and why: the keys of a cause; None while none has.

        Where torchrun alone knows why, it is not known yet: ``symptom``, so that what is known
        later, or elsewhere, takes its place.
        """
        ended = self._ended()
        if now - self.looked < LOOK_EVERY and not (at_once or ended):
            return None
        self.looked = now
        self._look(now)
        self.closing = self.closing or bool(ended) or self._read_closing()
        return self._erred(now) or ended or (self._gone() if self.closing else None)

    def _look(self, now: float) -> None:
        for pid in read_children(self.torchrun):
            stat = read_stat(pid)
            if stat is None or stat[0] in "ZX":
                continue
            if self.known.get(pid, {}).get("start_time") != stat[3]:
                who = read_rank(pid)
                if "local_rank" not in who:
                    continue  # not a rank, or not yet
                self.known[pid] = {**who, "start_time": stat[3]}
                self._write_known()
            self.seen[pid] = now

    def _write_known(self) -> None:
        """For who has to end them, should this supervisor and torchrun both be killed."""
        known = [{"pid": pid, "start_time": who["start_time"]} for pid, who in self.known.items()]
        with contextlib.suppress(OSError):  # a disk that is full
            write_json(os.path.join(self.run_dir, KNOWN), known)

    def _ended(self) -> dict[str, Any] | None:
        """A rank that has ended badly, if the launcher has not reaped it yet: DeepSpeed's looks
        once a second, and says nothing; torchrun ten times.
        """
        for pid, who in self.known.items():
            code = read_exit_code(pid) if self._is_ours(pid) else None
            if code:
                lines = self._stderr(who["local_rank"])
                reason = exit_reason(code, lines)
                symptom = is_symptomatic_end(code, reason, lines)
                return {**self._who(who["local_rank"]), "reason": reason, "symptom": symptom}
        return None

    def _is_ours(self, pid: int) -> bool:
        """Whether that is still the rank, and no process that was given its pid later."""
        stat = read_stat(pid)
        ours = (self.torchrun, self.known[pid]["start_time"])
        return stat is not None and (stat[1], stat[3]) == ours

    def _folders(self, local_rank: str) -> str:
        root = os.path.join(glob.escape(self.run_dir), "ranks", "*", "attempt_*")
        return os.path.join(root, local_rank)

    def _stderr(self, local_rank: int) -> list[str]:
        paths = glob.glob(os.path.join(self._folders(str(local_rank)), "stderr.log"))
        return read_lines(paths[0]) if paths else []

    def _alive(self) -> dict[int, dict[str, int]]:
        return {pid: who for pid, who in self.known.items() if self.seen[pid] == self.looked}

    def _read_closing(self) -> bool:
        """Whether torchrun has logged, since the last look, that it ends one of its ranks."""
        with contextlib.suppress(FileNotFoundError):
            with open(os.path.join(self.run_dir, "node.log"), "rb") as file:
                file.seek(self.offset)
                lines = file.read(CHUNK)
            whole = lines[: lines.rfind(b"\n") + 1] or (lines if len(lines) == CHUNK else b"")
            self.offset += len(whole)
            return any(int(a or b) in self.known for a, b in CLOSING.findall(whole))
        return False

    def _erred(self, now: float) -> dict[str, Any] | None:
        """A rank that has written its error, and has ended or doesn't manage to."""
        alive = {who["local_rank"] for who in self._alive().values()}
        found = []
        for path in glob.glob(os.path.join(self._folders("*"), "error.json")):
            local_rank = int(os.path.basename(os.path.dirname(path)))
            failure = read_failure(self.run_dir, local_rank, None, False)
            if not failure:
                continue
            since = self.erred.setdefault(local_rank, now)
            if local_rank in alive and now - since < self.limit:
                continue  # it may still catch what it raised
            why = {key: failure[key] for key in ("at", "reason", "symptom")}
            found.append({**self._who(local_rank), **why})
        return min(found, key=lambda one: (one["symptom"], one["at"]), default=None)

    def _gone(self) -> dict[str, Any] | None:
        """The rank that was the last to end by itself, as torchrun ends what is left."""
        seen = {who["local_rank"]: self.seen[pid] for pid, who in self.known.items()}
        ended = [k for k in range(self.plan["nproc_per_node"]) if seen.get(k) != self.looked]
        if not ended:
            return None
        # One that was never seen ended at once; of the others some may have finished before.
        who = self._who(max(ended, key=lambda k: seen.get(k, float("inf"))))
        reason = "rank %d ended, and torchrun ends the others of its host" % who["rank"]
        return {**who, "reason": reason, "symptom": True}

    def _who(self, local_rank: int) -> dict[str, int]:
        return {"rank": self.plan["first_rank"] + local_rank, "local_rank": local_rank}

    @property
    def any(self) -> bool:
        """Whether one has begun."""
        return bool(self.known) or bool(read_children(self.torchrun))

    def read_moved(self) -> int:
        """Bytes that those of them which live have read and written so far."""
        return sum(map(read_moved_bytes, self._alive()))

    def kill(self) -> None:
        """SIGKILL for those that are left. Their pids are theirs: torchrun has not reaped them."""
        for pid in self.known:
            if self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

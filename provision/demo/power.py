"""Power off a demo host: stop every process below it, daemons too, and only those."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds between asking what still runs on a stopping host to end, and killing it.
GRACE = 3.0


def read_descendants(root: int) -> list[int]:
    """Every process below ``root``, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything, parentheses too.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def apply_power_cut(reap: Callable[[], None], *, grace: float = GRACE) -> None:
    """Stop every process below this one; none is left when this returns.

    ``reap`` collects ended children. Orphans must come to this process (PR_SET_CHILD_SUBREAPER).
    """
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    while left := read_descendants(os.getpid()):
        late = time.monotonic() > deadline
        for pid in left if late else set(left) - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= set(left)
        time.sleep(0.02)
        reap()

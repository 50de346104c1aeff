"""Bytes a second: as a line of progress shows them, and held to."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from provision.numbers import size

#: Hosts named in a line of progress: those that have the most to come.
_NAMED = 4


def progress(needed: Mapping[str, int], come: Mapping[str, int], rate: float) -> str:
    """One line: bytes of all hosts, their rate, seconds left by it; the hosts that lack most."""
    total, done = sum(needed.values()), sum(min(come[h], n) for h, n in needed.items())
    left = f"{(total - done) / rate:.0f} s left" if rate > 0 else "nothing moves"
    behind = sorted((h for h in needed if come[h] < needed[h]), key=lambda h: come[h] - needed[h])
    hosts = ", ".join(f"{h} {100 * come[h] // needed[h]} %" for h in behind[:_NAMED])
    more = f" and {len(behind) - _NAMED} more" if len(behind) > _NAMED else ""
    return f"{size(done)} of {size(total)}, {size(rate)}/s, {left}; {hosts}{more}"


class Pace:
    """At most ``rate`` bytes a second over all threads that ask; 0: as fast as it goes."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free, self._lock = rate, 0.0, threading.Lock()

    def apply_wait(self, count: int) -> None:
        """Wait until so many more bytes may go."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free)
            self._free = begin + count / self._rate
        time.sleep(begin - now)

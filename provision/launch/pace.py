"""Each rank's own pace (trainer/pace.py), as hosts tell it: and who is slow. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

#: Times the others' median from which a rank is called slow: less is the noise of any machine.
SLOW = 1.2


@dataclass(frozen=True, kw_only=True)
class RankPace:
    """A rank at its last logging step. ``forward_seconds``: in the forward pass, by step."""

    rank: int
    host: str
    step: int
    forward_seconds: float
    host_bytes: int
    device_bytes: int | None


def parse_pace(host: str, lines: Iterable[Mapping[str, Any]]) -> dict[int, RankPace]:
    """By rank, the last of each; a line that lacks anything (a script's own) is left out."""
    found = {}
    for line in lines:
        try:
            device = line.get("device_bytes")
            pace = RankPace(
                rank=int(line["rank"]),
                host=host,
                step=int(line["step"]),
                forward_seconds=float(line["forward_seconds"]),
                host_bytes=int(line["host_bytes"]),
                device_bytes=None if device is None else int(device),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        found[pace.rank] = pace
    return found


def slowest(paces: Sequence[RankPace]) -> tuple[RankPace, float] | None:
    """The slowest rank and how many times the others' median it takes; None if none stands out."""
    if len(paces) < 2:
        return None
    worst = max(paces, key=lambda pace: pace.forward_seconds)
    usual = median(pace.forward_seconds for pace in paces if pace is not worst)
    if usual <= 0 or worst.forward_seconds < usual * SLOW:
        return None
    return worst, worst.forward_seconds / usual


def slow_words(paces: Sequence[RankPace]) -> str:
    """``slowest rank 3 (node2), forward 1.8x the others'``; empty if none stands out."""
    found = slowest(paces)
    if found is None:
        return ""
    return f"slowest rank {found[0].rank} ({found[0].host}), forward {found[1]:.1f}x the others'"

"""What a supervisor knows of one other, and why a run ends.

A *cause*: {"kind", "host", "node_rank", "rank", "reason", "at", "symptom"}, kind being one of
``failed`` ``stuck`` ``lost`` ``isolated`` ``absent`` ``twice`` ``differs`` ``full`` ``asked``.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import json
import time
from typing import Any

from provision.onhost.state import ENDED

MOST_TOLD = 400  # characters of a reason that others are told
# The types of what a message, and a cause, has to have.
MESSAGE: dict[str, type] = {"n": int, "s": str, "q": int, "st": str}
CAUSE: dict[str, Any] = {
    "kind": str, "host": str, "node_rank": int, "reason": str, "at": (int, float), "symptom": bool,
}  # fmt: skip


def make_cause(kind: str, host: str, node_rank: int, reason: str, **more: Any) -> dict[str, Any]:
    """Why a run ends, as it is told to others and written down."""
    cause = {"kind": kind, "host": host, "node_rank": node_rank, "rank": None, "reason": reason}
    return {**cause, "at": time.time(), "symptom": False, **more}


def shortened(cause: dict[str, Any] | None) -> dict[str, Any] | None:
    """A cause as it is told: one datagram holds it, however much an exception has to say."""
    if cause is None or len(cause["reason"]) <= MOST_TOLD:
        return cause
    return {**cause, "reason": cause["reason"][: MOST_TOLD - 2] + " …"}


def parse_message(body: bytes) -> dict[str, Any] | None:
    """What a supervisor says; None for what is no such thing, whoever could authenticate it.

    It may be of another version, and by hand nobody needs a secret. ``n`` its node_rank, ``s`` its
    session, ``q`` the message's number, ``st`` its node's state, ``h`` its host, ``c`` the cause it
    knows, ``y`` our state as it knows it, ``w`` it wants an answer, ``who`` with the addresses
    ``t``; by hand ``e``, node 0's session, and ``a``, what is to be the same on all nodes.
    """
    try:
        message = json.loads(body)
        found = [type(message[key]) is kind for key, kind in MESSAGE.items()]
        found += [isinstance(message.get(key), (str, type(None))) for key in ("h", "y", "e")]
        found.append(isinstance(message.get("a", {}), dict))
        cause = message.get("c")
        if cause is not None:
            found += [isinstance(cause[key], kind) for key, kind in CAUSE.items()]
        for rank, (address, port) in message.get("t", {}).items():
            found += [int(rank) >= 0, isinstance(address, str), 0 < int(port) < 1 << 16]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return message if all(found) else None


class Peer:
    """What is known of one other supervisor. Times are of this host's monotonic clock."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.node_rank = int(node["node_rank"])
        self.host = str(node.get("host") or "node_rank %d" % self.node_rank)
        address, port = node.get("address"), node.get("port")
        self.address = (str(address), int(port)) if address and port else None
        self.session: str | None = None  # of the process that speaks for it
        self.last = -1  # number of its last message
        self.heard: float | None = None
        self.told = float("-inf")
        self.state = "awaited"
        self.knows: str | None = None  # our state, as it last said
        self.has_cause = False

    @property
    def ended(self) -> bool:
        """Whether it said that its node has ended."""
        return self.state in ENDED

    def __str__(self) -> str:
        rank = "node_rank %d" % self.node_rank
        return rank if self.host == rank else "%s (%s)" % (self.host, rank)

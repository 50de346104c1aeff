"""The supervisors of one run watch one another: what each knows of the others, and how they talk.

Every supervisor tells every other, over UDP and once a second, that it lives and how its node
fares. The first failure anywhere travels at once and makes all others stop. Whoever is silent is
asked to answer five times a second, so that lost packets are no lost host; who is silent for
``lost_after`` seconds all the same is lost. Each pair watches itself, in both directions: a link
that is cut one way, or between two hosts only, is found too. A host sends and receives n - 1
datagrams of about 150 bytes a second in a run of n hosts.

plan.json says who takes part::

    "peers": {"secret": "…", "address": "10.0.0.1", "port": 29500,       this node's own
              "nodes": [{"node_rank": 0, "host": "node1", "address": "10.0.0.1", "port": 29500},
                        {"node_rank": 1, "host": "node2", "address": null, "port": null}, …]}

An address that is null is learnt from node 0, which every node must be able to name. Messages are
authenticated with HMAC-SHA256 (the key is made of ``secret`` and the run's id) and not encrypted;
one that was heard before is ignored, and so is one of another run.

Nodes that persons start, each for itself, have no run's id in common, and know no names::

    "peers": {"secret": "", "circle": "29500", "meet": ["10.0.0.1", 29500], "port": 29500,
              "common": {"nnodes": 2, …}, "nodes": [{"node_rank": 0}, {"node_rank": 1, "host": …}]}

All say hello to node 0, at ``meet``. ``circle`` stands for the run's id, ``common`` is what has to
be the same on all nodes, and the session of node 0's supervisor tells one attempt from another: a
node belongs to the first that it hears of, and what is of another attempt is ignored.

What a supervisor makes of what it hears: circle.py, which is pure. ``Wire`` is the socket.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import select
import socket
import time
from typing import Any, Callable

from provision.onhost.circle import TURN, Circle
from provision.onhost.peer import parse_message

MAGIC, MAC = b"ZF1", 16  # the first bytes of a datagram; bytes of its HMAC
MOST = 4096  # datagrams taken in one go


class Wire:
    """Authenticated datagrams from and to one address."""

    def __init__(self, secret: str, run: str, address: str, port: int) -> None:
        self.key = hashlib.sha256(("%s\n%s" % (run, secret)).encode()).digest()
        where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        self.socket = socket.socket(where[0], socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        try:
            self.socket.bind(where[4])
        except OSError:
            self.socket.close()
            raise
        self.sent = self.received = self.sent_bytes = 0

    def leave(self) -> None:
        """Go on at any other port of the same address."""
        address = self.socket.getsockname()
        self.socket.close()
        self.socket = socket.socket(self.socket.family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((address[0], 0, *address[2:]))

    def send(self, address: tuple[str, int], message: dict[str, Any]) -> None:
        """Send, or not: a network that refuses is as good as one that loses, and seen as that."""
        body = json.dumps(message).encode()
        packet = MAGIC + hmac.new(self.key, body, hashlib.sha256).digest()[:MAC] + body
        try:
            self.socket.sendto(packet, address)
        except OSError:
            return
        self.sent += 1
        self.sent_bytes += len(packet)

    def receive(self, seconds: float) -> tuple[dict[str, Any], tuple[str, int]] | None:
        """The next authentic message and where it came from, or None after so many seconds."""
        until = time.monotonic() + seconds
        left = seconds
        while True:
            try:
                if not select.select([self.socket], [], [], left)[0]:
                    return None
                packet, source = self.socket.recvfrom(1 << 16)
            except OSError:  # an ICMP error was waiting
                packet, source = b"", None
            message = self.read(packet)
            if message is not None:
                self.received += 1
                return message, source
            left = until - time.monotonic()
            if left <= 0:  # however much more there is: a flood of datagrams holds up nothing
                return None

    def read(self, packet: bytes) -> dict[str, Any] | None:
        """The message of a datagram; None where it is none of this run's."""
        body = packet[len(MAGIC) + MAC :]
        mac = hmac.new(self.key, body, hashlib.sha256).digest()[:MAC]
        if not hmac.compare_digest(packet[: len(MAGIC) + MAC], MAGIC + mac):
            return None
        return parse_message(body)


class HeartbeatError(Exception):
    """This node can't take part; one line."""


def resolve(name: str, port: int) -> tuple[int, tuple[str, int]]:
    """(family, address) of a host; IPv4 where it has both, so that all nodes take the same."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise HeartbeatError("MASTER_ADDR %s: %s" % (name, error)) from None
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, (str(where[0]), int(where[1]))


class Heartbeat:
    """A Circle on its Wire; with no ``peers`` in the plan it only keeps time."""

    def __init__(self, plan: dict[str, Any], limits: dict[str, float]) -> None:
        peers = plan.get("peers")
        self.circle = self.wire = None
        self.notes: list[str] = []
        if peers and "meet" in peers:
            family, meet = resolve(*peers["meet"])
            everywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104
            peers = {**peers, "meet": meet, "address": everywhere}
        if peers:
            self.wire = self.open(plan, peers)
            self.circle = Circle(peers, plan["node_rank"], limits, time.monotonic())

    def open(self, plan: dict[str, Any], peers: dict[str, Any]) -> Wire:
        """The socket. By hand, nodes but the first may share a machine: theirs can be any port."""
        name, where = peers.get("circle", plan["run"]), (peers["address"], int(peers["port"]))
        try:
            return Wire(peers["secret"], name, *where)
        except OSError as error:
            if not (peers.get("common") and plan["node_rank"] and error.errno == errno.EADDRINUSE):
                text = "UDP port %d of %s, for the heartbeat, can't be had: %s"
                if peers.get("common"):
                    text += " (node 0 that failed keeps it for 30 s, to tell nodes that start late)"
                raise HeartbeatError(text % (where[1], where[0], error.strerror)) from None
        wire = Wire(peers["secret"], name, where[0], 0)
        text = "heartbeat at UDP port %d: another process has %d, as a node of this machine would"
        self.notes.append(text % (wire.socket.getsockname()[1], where[1]))
        return wire

    def turn(self, seconds: float) -> None:
        """Say what is due, then listen for so long."""
        if self.circle is None or self.wire is None:
            time.sleep(seconds)
            return
        until = time.monotonic() + seconds
        for address, message in self.circle.due(time.monotonic()):
            self.wire.send(address, message)
        for _ in range(MOST):
            heard = self.wire.receive(max(0.0, until - time.monotonic()))
            if heard is None:
                return
            for address, answer in self.circle.hear(*heard, time.monotonic()):
                self.wire.send(address, answer)

    def judge(self) -> dict[str, Any] | None:
        """Why the run ends, if a peer's word or silence says so."""
        return self.circle.judge(time.monotonic()) if self.circle else None

    def lost(self) -> list[str]:
        """Peers that are silent for too long, whatever the run ends for."""
        return self.circle.lost(time.monotonic()) if self.circle else []

    @property
    def states(self) -> dict[int, str]:
        """What each peer told last of its node, by node_rank."""
        peers = self.circle.peers if self.circle else {}
        return {rank: peer.state for rank, peer in peers.items()}

    def news(self) -> list[str]:
        """What a person should read now."""
        notes, self.notes = self.notes, []
        return [*notes, *(self.circle.news(time.monotonic()) if self.circle else [])]

    def tell(self, state: str, cause: dict[str, Any] | None) -> None:
        """This node's state from now on, and why the run ends, where that was found here."""
        if self.circle:
            self.circle.state = state
            known = self.circle.cause
            if cause and (known is None or (known["symptom"] and not cause["symptom"])):
                self.circle.declare(cause)
            self.turn(0.0)

    @property
    def own(self) -> bool:
        """Whether the cause was found here."""
        return self.circle is not None and self.circle.own

    @property
    def cause(self) -> dict[str, Any] | None:
        """Why the run ends, as far as known here."""
        return self.circle.cause if self.circle else None

    def linger(self, seconds: float) -> None:
        """Tell those that don't know yet how this node ended, for at most so many seconds.

        Where only such are left as have not begun, and they can be told from any port, the run's
        own is given up: another run may take it.
        """
        until, ours = time.monotonic() + seconds, True
        while self.circle and self.wire and time.monotonic() < until:
            now = time.monotonic()
            if not self.circle.unaware(now):
                return
            if ours and self.circle.placeless(now):
                self.wire.leave()
                ours = False
            self.turn(TURN / 4)

    def wait_while(self, open_question: Callable[[Circle, float], bool], seconds: float) -> None:
        """Go on for at most so many seconds while a question is open."""
        until = time.monotonic() + seconds
        while self.circle and time.monotonic() < until:
            if not open_question(self.circle, time.monotonic()):
                return
            self.turn(TURN / 4)

"""One supervisor of a run among its peers: what it hears, judges and says (heartbeat.py).

Pure: it is given times and messages.

Imported by other files of onhost/, and sent along with them. Standard library, Python 3.8.
"""

from __future__ import annotations

import os
from typing import Any, Iterator

from provision.onhost.peer import Peer, make_cause, shortened
from provision.onhost.state import ENDED, FAILED

TURN = 0.2  # seconds: how often those are told or asked that can't wait
BEAT = 1.0  # seconds between two messages to one peer
DOUBT = 2.0  # seconds of silence after which a peer is asked to answer, every TURN
LOST_AFTER = 5.0  # seconds of silence after which it is lost: two beats and 15 questions
START_WITHIN = 120.0  # seconds in which every peer must have been heard
SAY_AFTER, SAY_EVERY = 10.0, 30.0  # seconds: when it is first said, and then again, who is awaited


class Circle:
    """One supervisor among its peers. Pure: told the time and what was heard, it says what to send.

    ``state`` is this node's own; ``cause`` why the run ends, once it does, as far as known here.
    """

    def __init__(
        self, peers: dict[str, Any], node_rank: int, limits: dict[str, float], now: float
    ) -> None:
        self.node_rank = node_rank
        self.session = os.urandom(8).hex()
        self.lost_after = float(limits.get("lost_after", LOST_AFTER))
        self.start_within = float(limits.get("start_within", START_WITHIN))
        nodes = [Peer(node) for node in peers["nodes"]]
        self.peers = {peer.node_rank: peer for peer in nodes if peer.node_rank != node_rank}
        self.host = next(p.host for p in nodes if p.node_rank == node_rank)
        self.common: dict[str, Any] | None = peers.get("common")  # where nodes are started by hand
        self.meet: tuple[str, int] | None = None
        if self.common:
            self.meet = (str(peers["meet"][0]), int(peers["meet"][1]))
            if node_rank:
                self.peers[0].address = self.meet
        self.epoch = self.session if node_rank == 0 else None  # of the attempt; None: not known yet
        self.strays: set[tuple[str, int]] = set()  # who else must be told: a second of one rank
        self.state = "up"
        self.cause: dict[str, Any] | None = None
        self.own = False  # whether the cause was found here
        self.count = 0
        self.begun = self.last = now
        self.said = now + SAY_AFTER - SAY_EVERY
        self.met = float("-inf")

    # --- hearing ---------------------------------------------------------------------------------

    def hear(
        self, message: dict[str, Any], source: tuple[str, int], now: float
    ) -> list[tuple[tuple[str, int], dict[str, Any]]]:
        """Take in a message (authentic); what to answer, and to whom."""
        session, rank = message["s"], message["n"]
        if session == self.session or (self.common and not self._belongs(message)):
            return []
        if self.node_rank == 0 and self.common and message.get("a", self.common) != self.common:
            return self._differs(message, source)
        peer = self.peers.get(rank)
        if rank == self.node_rank or (peer and peer.session not in (None, session)):
            return self._twice(message, source, peer)
        if peer is None or message["q"] <= peer.last:
            return []
        peer.session, peer.last, peer.heard, peer.address = session, message["q"], now, source
        peer.host = message.get("h") or peer.host
        peer.state, peer.knows = message["st"], message.get("y", peer.knows)
        peer.has_cause = bool(message.get("c"))
        self._learn(message)
        if message.get("w") or (peer.ended and message.get("y") != self.state):
            return [(source, self._answer(message, peer))]
        return []

    def _belongs(self, message: dict[str, Any]) -> bool:
        """Whether a message is of this attempt: of the same node 0, or towards it, of none yet."""
        if message["n"] == 0:
            self.epoch = self.epoch or message["s"]
            return self.node_rank == 0 or self.epoch == message["s"]
        said = message.get("e")
        return self.epoch == said if said else self.node_rank == 0

    def _differs(
        self, message: dict[str, Any], source: tuple[str, int]
    ) -> list[tuple[tuple[str, int], dict[str, Any]]]:
        """A node was started with other arguments: neither may run, and it is told."""
        theirs, ours = message["a"], self.common or {}
        what = ["%s %s (here %s)" % (k, theirs.get(k), v) for k, v in ours.items()]
        what = [words for words, k in zip(what, ours) if theirs.get(k) != ours[k]]
        if self.cause is None:
            reason = "node_rank %d was started with %s: start all nodes with the same"
            reason %= (message["n"], ", ".join(what))
            self.declare(make_cause("differs", str(message.get("h")), message["n"], reason))
        return self._tell_stray(source)

    def _learn(self, message: dict[str, Any]) -> None:
        """A cause, when there is none here or a mere consequence; addresses that node 0 knows."""
        cause = message.get("c")
        if cause and (self.cause is None or (self.cause["symptom"] and not cause["symptom"])):
            self.cause, self.own = cause, False
        for rank, address in message.get("t", {}).items():
            peer = self.peers.get(int(rank))
            if peer and peer.address is None:
                peer.address = (address[0], int(address[1]))

    def _answer(self, message: dict[str, Any], peer: Peer) -> dict[str, Any]:
        answer = {**self._message(), "y": peer.state}
        if message.get("who"):
            known = {p.node_rank: p.address[:2] for p in self.peers.values() if p.address}
            answer["t"] = {rank: a for rank, a in known.items() if rank != peer.node_rank}
        return answer

    def _twice(
        self, message: dict[str, Any], source: tuple[str, int], peer: Peer | None
    ) -> list[tuple[tuple[str, int], dict[str, Any]]]:
        """Two supervisors claim one node_rank: neither may run, and both are told."""
        first = peer.address[0] if peer and peer.address else "here"
        name = peer.host if peer else self.host
        if self.cause is None:
            reason = (
                "node_rank %d is taken twice: by %s (%s) and by %s (%s); give each node its own"
            )
            reason %= (message["n"], name, first, message.get("h"), source[0])
            self.declare(make_cause("twice", str(message.get("h")), message["n"], reason))
        return self._tell_stray(source)

    def _tell_stray(self, source: tuple[str, int]) -> list[tuple[tuple[str, int], dict[str, Any]]]:
        """The answer to one that may not take part: once. Two that answer one another never end."""
        known = source in self.strays
        self.strays.add(source)  # told every TURN from now on
        return [] if known else [(source, self._message())]

    # --- judging ---------------------------------------------------------------------------------

    def declare(self, cause: dict[str, Any]) -> None:
        """Why the run ends, found here: the others will be told."""
        self.cause, self.own = cause, True

    def judge(self, now: float) -> dict[str, Any] | None:
        """Why the run ends, if it does: what another said, or who is silent for too long."""
        self._pass(now)
        if self.cause is None or self.cause["symptom"]:
            self._find_lost(now)
        if self.cause is None and now - self.begun > self.start_within:
            self._find_absent()
        return self.cause

    def _pass(self, now: float) -> None:
        gap = now - self.last
        self.last = now
        if gap > 1.0:  # we were not running ourselves, so nobody else's silence means anything
            for peer in self.peers.values():
                peer.heard = None if peer.heard is None else peer.heard + gap

    def lost(self, now: float) -> list[str]:
        """Who is silent for too long, while the run is being stopped anyhow."""
        self._pass(now)
        silences = [(peer, self.silence(peer, now)) for peer in self.peers.values()]
        return [peer.host for peer, s in silences if s is not None and s > self.lost_after]

    def silence(self, peer: Peer, now: float) -> float | None:
        """Seconds since a peer was heard; None before the first time, and after its end."""
        return None if peer.heard is None or peer.ended else now - peer.heard

    def _find_lost(self, now: float) -> None:
        silences = [(peer, self.silence(peer, now)) for peer in self.peers.values()]
        known = [(peer, silent) for peer, silent in silences if silent is not None]
        lost = [peer for peer, silent in known if silent > self.lost_after]
        if not lost:
            return
        if len(known) > 1 and all(silent > self.lost_after / 2 for _, silent in known):
            reason = "heard nothing of any of the other %d hosts for %.1f s: its network is cut"
            reason %= (len(known), self.lost_after)
            self.declare(make_cause("isolated", self.host, self.node_rank, reason))
            return
        peer = lost[0]
        others = ", and nothing of " + ", ".join(p.host for p in lost[1:]) if lost[1:] else ""
        reason = "lost: %s heard nothing of it for %.1f s%s (it is off, its network is cut, "
        reason = (reason + "or its supervisor was killed)") % (self.host, self.lost_after, others)
        self.declare(make_cause("lost", peer.host, peer.node_rank, reason))

    def _absent(self) -> list[Peer]:
        """Who was never heard. By hand that is node 0, as long as it is: it names the others."""
        absent = [peer for peer in self.peers.values() if peer.heard is None]
        first = self.peers.get(0)
        return [first] if self.common and first in absent else absent

    def _find_absent(self) -> None:
        absent = self._absent()
        if absent:
            reason = (
                "%s never heard of within %.0f s by %s: not started, or its UDP port is blocked"
            )
            names = ", ".join(map(str, absent))
            reason %= (names, self.start_within, self.host)
            self.declare(make_cause("absent", absent[0].host, absent[0].node_rank, reason))

    def news(self, now: float) -> list[str]:
        """What a person should read now: who is awaited, while somebody is."""
        absent = self._absent()
        if not absent or self.cause or now - self.said < SAY_EVERY:
            return []
        self.said = now
        names = ", ".join(
            "%s%s" % (p, " at %s UDP port %d" % p.address[:2] if p.address else "") for p in absent
        )
        text = "waiting for %s: not heard of for %.0f s, at most %.0f s"
        return [text % (names, now - self.begun, self.start_within)]

    # --- telling ---------------------------------------------------------------------------------

    def _message(self) -> dict[str, Any]:
        self.count += 1
        message = {"n": self.node_rank, "s": self.session, "q": self.count, "st": self.state}
        by_hand = {"e": self.epoch, "a": self.common} if self.common else {}
        return {**message, "h": self.host, "c": shortened(self.cause), **by_hand}

    def _hurry(self, peer: Peer, now: float) -> tuple[bool, bool]:
        """(whether a peer is to be told or asked every TURN, whether it is to answer)."""
        if peer.heard is None:
            return now - self.begun < SAY_AFTER, True
        asks = now - peer.heard > DOUBT
        untold = bool(self.cause) and not peer.has_cause
        unaware = self.state in ENDED and peer.knows != self.state
        return asks or untold or unaware, asks or unaware

    def due(self, now: float) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """(address, message) of everything that is to be said now."""
        made: dict[tuple[bool, bool], dict[str, Any]] = {}
        unknown = any(peer.address is None for peer in self.peers.values())
        for peer in self.peers.values():
            hurry, answer = self._hurry(peer, now)
            if (
                peer.ended
                or peer.address is None
                or now - peer.told < (TURN if hurry else BEAT) - TURN / 2
            ):
                continue
            peer.told = now
            who = unknown and peer.node_rank == 0
            if (answer, who) not in made:
                extra = {key: 1 for key, asked in (("w", answer or who), ("who", who)) if asked}
                made[answer, who] = {**self._message(), **extra}
            yield peer.address, made[answer, who]
        for address in self.strays:
            yield address, self._message()
        yield from self._due_meeting(now)

    def _due_meeting(self, now: float) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
        """What node 0 says where all meet: to itself, unless another node 0 is there."""
        awaits = any(peer.heard is None for peer in self.peers.values())
        late = now - self.met >= BEAT - TURN / 2
        if self.meet and self.node_rank == 0 and awaits and late:
            self.met = now
            yield self.meet, self._message()

    def unaware(self, now: float) -> list[Peer]:
        """Who doesn't know yet how this node ended: peers that live, or may start late."""
        found = []
        for peer in self.peers.values():
            late = peer.heard is None and self.state == FAILED
            lives = peer.heard is not None and now - peer.heard < self.lost_after
            if not peer.ended and (late or lives) and peer.knows != self.state:
                found.append(peer)
        return found

    def placeless(self, now: float) -> bool:
        """Whether those can be told from any port: they know none of ours yet, and we theirs."""
        return all(peer.heard is None and peer.address for peer in self.unaware(now))

    def undecided(self, now: float) -> bool:
        """Whether a cause may still be found: in a peer that lives, or fell silent just now."""
        self.judge(now)
        if self.cause and not self.cause["symptom"]:
            return False
        return any(self.silence(peer, now) is not None for peer in self.peers.values())

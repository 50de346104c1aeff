"""Many bad pairs of hosts → the hosts to look at first. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Blame:
    """Bad pairs, told of one host. ``way``: "to", "from" or "with" its peers."""

    host: str
    way: str
    peers: tuple[str, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The first pair of each peer, (from, to)."""
        return tuple((p, self.host) if self.way == "from" else (self.host, p) for p in self.peers)


def blame(bad: Collection[Pair], order: Collection[str]) -> tuple[Blame, ...]:
    """Directed bad pairs (from, to) → the hosts to look at first.

    A host that has bad pairs with two peers or more, and with more than anybody else left, is what
    they share; a pair alone is told of the host that it starts from.
    """
    left, found = set(bad), list[Blame]()
    while left:
        peers = {h: {b if a == h else a for a, b in left if h in (a, b)} for h in order}
        worst = max(order, key=lambda host: len(peers[host]))
        if len(peers[worst]) < 2:
            found += [Blame(host=a, way="to", peers=(b,)) for a, b in sorted(left)]
            break
        out, into = {a for a, _ in left if a == worst}, {b for _, b in left if b == worst}
        way = "with" if out and into else "to" if out else "from"
        chosen = tuple(host for host in order if host in peers[worst])
        found.append(Blame(host=worst, way=way, peers=chosen))
        left = {pair for pair in left if worst not in pair}
    return tuple(found)

"""Who gets a file from whom: a chain, so that each byte leaves every machine once. Pure.

With equal links a chain that streams takes as long for sixteen hosts as for one, but for a chunk's
time at each hop; a tree's inner hosts would send every byte twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

#: The source that is no host.
CONTROLLER = ""


def plan_sources(
    held: Mapping[str, Sequence[int | None]], sizes: Sequence[int], serving: Collection[str]
) -> dict[str, list[str]]:
    """Each host's source of each file. ``held``: verified bytes of it; None: not wanted, not there.

    A host gets a file from one that has at least as much of it; the first from the controller,
    which is also where those get it who can't be served.
    """
    sources = {host: [CONTROLLER] * len(sizes) for host in held}
    for number, size in enumerate(sizes):
        having = {host: each[number] for host, each in held.items() if each[number] is not None}
        chain = sorted(having, key=lambda host: -(having[host] or 0))  # stable: in host order
        last = CONTROLLER
        for host in chain:
            if host not in serving:
                continue  # neither dials nor is dialled
            if having[host] != size:
                sources[host][number] = last
            last = host
    return sources

"""``--include`` and ``--exclude``, as DeepSpeed's launcher has them: ``node1@node2:0,2``.

``NAME[:SLOT[,SLOT…]]``, joined by ``@``; without slots the whole host is meant.
https://www.deepspeed.ai/getting-started/#resource-configuration-multi-node
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from provision.errors import ConfigError
from provision.inventory import Inventory

_SLOTS = re.compile(r":(\d+(?:,\d+)*)$")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The hosts that were chosen, and of some of them the slots: to take, or to leave out."""

    inventory: Inventory
    taken: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def slots(self, host: str, count: int) -> tuple[int, ...] | None:
        """Which of a host's ``count`` slots; None where all of them.

        Raises ConfigError for a slot that the host does not have.
        """
        named = self.taken.get(host) or self.left.get(host)
        if named is None:
            return None
        flag = "--include" if host in self.taken else "--exclude"
        if missing := [slot for slot in named if slot >= count]:
            raise ConfigError(
                flag,
                found=f"slot {missing[0]} of {host}",
                expected=f"0 to {count - 1}, its slots",
                remedy=f"leave slot {missing[0]} out, or raise slots= in the hosts file",
            )
        if host in self.taken:
            return named
        rest = tuple(slot for slot in range(count) if slot not in named)
        if not rest:
            raise ConfigError(
                "--exclude",
                found=f"every slot of {host}",
                expected="some left, or the host's name alone",
                remedy=f"write {host} without slots to leave it out",
            )
        return rest


def choose(inventory: Inventory, include: str | None, exclude: str | None) -> Choice:
    """The hosts of an inventory that both flags leave, in the inventory's order. Pure.

    Raises ConfigError for both flags at once, a host that the inventory lacks, and no host left.
    """
    if not include and not exclude:
        return Choice(inventory=inventory)
    if include and exclude:
        raise ConfigError(
            "--include and --exclude", found="both", expected="one of them", remedy="drop one"
        )
    flag = "--include" if include else "--exclude"
    named = _parse(flag, include or exclude or "", inventory.labels)
    whole = {host for host, slots in named.items() if not slots}
    some = {host: slots for host, slots in named.items() if slots}
    kept = set(named) if include else set(inventory.labels) - whole
    chosen = Inventory(hosts=tuple(host for host in inventory if host.label in kept))
    if not len(chosen):
        raise ConfigError(
            flag, found="no host left", expected="one or more", remedy="exclude fewer hosts"
        )
    return Choice(inventory=chosen, taken=some if include else {}, left={} if include else some)


def _parse(flag: str, text: str, labels: Collection[str]) -> dict[str, tuple[int, ...]]:
    named: dict[str, tuple[int, ...]] = {}
    for part in text.split("@"):
        host = part.strip()
        slots: tuple[int, ...] = ()
        # A host's own label may end in a port: then it is the whole host that is meant.
        if host not in labels and (match := _SLOTS.search(host)):
            slots = tuple(dict.fromkeys(int(slot) for slot in match[1].split(",")))
            host = host[: match.start()]
        if host not in labels:
            raise ConfigError(
                flag,
                found=f"{host!r} in {text!r}, a name that the hosts file lacks",
                expected=", ".join(labels),
                remedy="as in node1@node2:0,2; a name as the hosts file has it",
            )
        if host in named:
            raise ConfigError(
                flag, found=f"{host} twice", expected="each host once", remedy="join its slots"
            )
        named[host] = tuple(sorted(slots))
    return named

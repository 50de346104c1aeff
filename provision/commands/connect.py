"""The hosts of a command: connected, and what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from provision.inventory import Inventory, read_inventory
from provision.settings import Settings
from provision.show import Answer

# What a command does with the hosts is imported once it does: the others start sooner.
if TYPE_CHECKING:
    from provision.fleet import Fleet
    from provision.hosts.facts import HostFacts
    from provision.launch.include import Choice


def connected_fleet(
    s: Settings, inventory: Inventory | None = None
) -> AbstractContextManager[Fleet]:
    """The chosen hosts of the hosts file, or another inventory, to be connected to."""
    from provision.fleet import connected
    from provision.remote import SshOptions

    options = SshOptions(
        config=s.ssh_config,
        accept_new=s.accept_new,
        connect_timeout=s.connect_timeout,
        workers=s.workers,
        answer_timeout=s.answer_timeout,
    )
    return connected(inventory or read_choice(s).inventory, options)


def read_choice(s: Settings) -> Choice:
    """The hosts of the hosts file that --include and --exclude leave, and their slots."""
    from provision.launch.include import choose

    return choose(read_inventory(s.hosts), s.include, s.exclude)


def gather_all(out: Answer, fleet: Fleet, peers: Sequence[str] = ()) -> Mapping[str, HostFacts]:
    """Facts of every host; the command ends here if one can't be reached."""
    from provision.fleet import error_report
    from provision.hosts.facts import gather_facts

    gathered = gather_facts(fleet, peers, say=out.say)
    out.require(error_report(gathered.errors))
    return gathered.facts


def peers_of(fleet: Fleet) -> list[str]:
    """The addresses that every host looks up its way to: all of theirs."""
    return [fleet.address(host) for host in fleet.inventory.labels]

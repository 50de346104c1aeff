"""What ``invoke memory`` is asked about: hosts that are there, or machines that are not."""

from __future__ import annotations

from provision.commands.connect import connected_fleet, gather_all
from provision.memory.advise import Room
from provision.memory.asked import on_hosts, room_from_flags, room_of
from provision.memory.spec import MemorySpec
from provision.settings import Settings
from provision.show import Answer


def gather_room(out: Answer, s: Settings, spec: MemorySpec) -> tuple[MemorySpec, Room]:
    """The run on the hosts of the hosts file and their room, or on the machines of the flags."""
    if s.gpus is not None or not (s.hosts.is_file() or "hosts" in s.given):
        return spec, room_from_flags(s)
    with connected_fleet(s) as fleet:
        facts = gather_all(out, fleet)
    slots = {h.label: h.slots or len(facts[h.label].gpus) or 1 for h in fleet.inventory}
    return on_hosts(spec, slots), room_of(facts, slots)

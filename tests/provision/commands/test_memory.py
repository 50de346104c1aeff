"""What ``invoke memory`` is asked about: machines of the flags, or hosts that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.commands import memory
from provision.commands.memory import gather_room
from provision.memory.read import read_model
from provision.memory.spec import MemorySpec
from provision.settings import make_settings
from provision.show import Answer

SPEC = MemorySpec(model=read_model("8b"), gpus=4)


class Asked(Exception):
    """Hosts would be asked."""


@pytest.mark.parametrize(
    ("flags", "listed", "asks"),
    [
        ({}, False, False),
        ({"hosts": "hosts.txt"}, False, True),  # an error of the hosts file, not a guess
        ({}, True, True),
        ({"gpus": "8"}, True, False),
        ({"gpus": "8", "hosts": "hosts.txt"}, True, False),
    ],
)
def test_hosts_are_asked_unless_machines_are_given(
    flags: dict[str, str], listed: bool, asks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> None:
        raise Asked

    monkeypatch.setattr(memory, "connected_fleet", ask)
    if listed:
        (tmp_path / "hosts.txt").write_text("node1\n")
    s = make_settings({"gpu_memory": 80, "host_memory": 500}, flags, tmp_path)
    if asks:
        with pytest.raises(Asked):
            gather_room(Answer(json=True), s, SPEC)
    else:
        spec, room = gather_room(Answer(json=True), s, SPEC)
        assert spec is SPEC
        assert (room.gpu, room.host) == (80 * 10**9, 500 * 10**9)

"""The plan's steps, told to a real standby.py of this machine; or carried out one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from provision.errors import HostError, ProvisionError, UnreachableError
from provision.launch.standby import Standby, apply_standby
from provision.script import script_argv
from provision.steps import Phase, Put, Run, Step
from provision.talk import ProcessChannel, Talk


@dataclass
class Host:
    """What Standby needs of a Remote: its name, and to carry out a phase itself."""

    label: str = "node1"
    connected: bool = True
    applied: list[Phase] = field(default_factory=list)

    def apply(self, phase: Phase, _: Any) -> None:
        self.applied.append(phase)


@pytest.fixture
def talk() -> Iterator[Talk]:
    channel = ProcessChannel(script_argv("standby", ["", ""]), patience=30.0)
    yield Talk(label="node1", channel=channel)
    channel.close()


def phase_of(folder: Path, sha256: str = "", order: dict[str, object] | None = None) -> Phase:
    """A file, and a command that is an order."""
    content = b"{}" * 50_000
    put = Put(
        target=str(folder / "plan.json"),
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
        size=len(content),
        content=content,
        mode=0o600,
    )
    run = Run(argv=("false",), order=order or {"do": "here"})
    steps = (
        Step(host="node1", do=put, why="say what runs"),
        Step(host="node2", do=run, why="be left to node2"),
        Step(host="node1", do=run, why="show the rest"),
    )
    return Phase(name="run folder", steps=steps)


def test_steps_are_told_to_who_stands_by(talk: Talk, tmp_path: Path) -> None:
    host, standby = Host(), Standby(talks={"node1": talk})
    for _ in range(2):
        standby.apply(host, phase_of(tmp_path / "run"), print)  # type: ignore[arg-type]
    there = tmp_path / "run" / "plan.json"
    assert there.read_bytes() == b"{}" * 50_000
    assert there.stat().st_mode & 0o777 == 0o600
    assert host.applied == []


def test_a_step_that_fails_is_named(talk: Talk, tmp_path: Path) -> None:
    standby = Standby(talks={"node1": talk})
    with pytest.raises(HostError, match=r"node1: push generated .*sha256.*to say what runs"):
        standby.apply(Host(), phase_of(tmp_path, "0" * 64), print)  # type: ignore[arg-type]
    nowhere = {"do": "unpack", "archive": str(tmp_path / "none"), "sha256": "", "folder": "x"}
    with pytest.raises(HostError, match=r"node1: false: found .*No such file"):
        standby.apply(Host(), phase_of(tmp_path, order=nowhere), print)  # type: ignore[arg-type]


def test_a_host_where_nobody_stands_by_is_told_each_step(talk: Talk, tmp_path: Path) -> None:
    host, phase = Host(), phase_of(tmp_path / "run")
    Standby().apply(host, phase, print)  # type: ignore[arg-type]
    standby = Standby(talks={"node1": talk})
    talk.send({"do": "end"})
    talk.channel.process.wait(120)
    standby.apply(host, phase, print)  # type: ignore[arg-type]
    assert host.applied == [phase, phase]
    assert standby.talks == {}


def test_a_connection_that_has_ended_is_not_made_anew_to_start_a_run(
    talk: Talk, tmp_path: Path
) -> None:
    """It is Ctrl-C that cuts them, in the midst of a start."""
    host, standby = Host(connected=False), Standby(talks={"node1": talk})
    talk.send({"do": "end"})
    talk.channel.process.wait(120)
    with pytest.raises(HostError, match="node1"):
        standby.apply(host, phase_of(tmp_path / "run"), print)  # type: ignore[arg-type]
    assert host.applied == []


def test_who_can_not_stand_by_is_told_apart_and_the_others_end_with_the_command(talk: Talk) -> None:
    error = UnreachableError("node2: ssh", found="none", expected="a session", remedy="start it")

    class Hosts:
        def fan_out(self, _: Any) -> dict[str, Talk | ProvisionError]:
            return {"node1": talk, "node2": error}

    with apply_standby(Hosts(), "python") as standby:  # type: ignore[arg-type]
        assert standby.talks == {"node1": talk}
        assert standby.errors == {"node2": error}
    assert talk.channel.process.poll() == 0

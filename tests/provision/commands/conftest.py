"""Hosts that are this machine, each with a home of its own: onhost's scripts really run there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.errors import UnreachableError
from provision.fleet import Fleet
from provision.inventory import Host, Inventory
from provision.launch.runs import KnownRun
from provision.onhost.processes import read_boot_id, read_identity
from provision.onhost.runs import read_run
from provision.script import script_argv
from provision.session import Remote, Say
from provision.talk import ProcessChannel, Talk

RUN = "20261122-090000-sft-ab12"
FAILURE = {"kind": "rank", "rank": 1, "local_rank": 1, "at": 150.0, "reason": "ValueError: boom",
           "lines": ["boom"], "symptom": False}  # fmt: skip


def is_gone(label: str) -> UnreachableError:
    """What SSH says of a host that does not answer any more."""
    return UnreachableError(
        f"{label}: ssh", found="the connection ended", expected="an answer", remedy="is it up?"
    )


@dataclass(frozen=True, kw_only=True)
class Near(Remote):
    """A host that is this machine. ``did``: the scripts that ran there, the files that came of it.

    ``lost``: the first part of what it no longer does ("" is everything): the connection has ended.
    ``answers``: what scripts answer that are not to run.
    """

    home: Path
    cxn: Any = None
    lost: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        ours = Path(sys.executable).parent  # its python3 starts in half the time of most
        return {"PATH": f"{ours}:{os.environ['PATH']}", "HOME": str(self.home)}

    @property
    def connected(self) -> bool:
        return True

    def open(self) -> None:
        if "" in self.lost:
            raise is_gone(self.label)

    def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # it ends by itself just now
                    os.killpg(process.pid, signal.SIGKILL)

    def do(self, what: str) -> None:
        if any(what.startswith(lost) for lost in self.lost):
            raise is_gone(self.label)
        self.did.append(what)

    def run(
        self, argv: Sequence[str], on_line: Say | None = None, timeout: float | None = None
    ) -> tuple[int, str, str]:
        self.do(argv[5].removesuffix(".py") if len(argv) > 5 else argv[0])
        pipe, lines = subprocess.PIPE, []
        with subprocess.Popen(
            argv, stdout=pipe, stderr=pipe, text=True, env=self.environ, start_new_session=True
        ) as process:
            self.processes.append(process)
            assert process.stdout
            assert process.stderr
            for line in process.stdout:
                lines.append(line)
                if on_line:
                    on_line(line.rstrip("\n"))
            err = process.stderr.read()
        return process.returncode, "".join(lines), err

    def ask(
        self,
        script: str,
        args: Sequence[str] = (),
        python: str = "",
        timeout: float | None = None,
    ) -> dict[str, object]:
        if script in self.answers:
            self.do(script)
            return self.answers[script]
        return super().ask(script, args, python, timeout)

    def talk(self, script: str, args: Sequence[str] = (), python: str = "") -> Talk:
        self.do(script)
        argv = script_argv(script, args, python)
        return Talk(label=self.label, channel=ProcessChannel(argv, environ=self.environ))

    def get(self, source: str, target: Path) -> None:
        self.do(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


class NearFleet(Fleet):
    """A fleet of them; one that is connected to anew is the same."""

    def disconnect(self, label: str) -> None:
        pass

    def __getitem__(self, label: str) -> Near:
        remote = self.connections[label]
        assert isinstance(remote, Near)
        return remote


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Callable[..., NearFleet]]:
    """Makes a fleet of the hosts that are named."""
    made: list[NearFleet] = []

    def make(*labels: str) -> NearFleet:
        connections: dict[str, Remote] = {}
        for number, label in enumerate(labels, start=1):
            (home := tmp_path / "homes" / label).mkdir(parents=True, exist_ok=True)
            cxn = SimpleNamespace(host=f"10.0.0.{number}")
            connections[label] = Near(label=label, home=home, cxn=cxn)
        hosts = tuple(Host(name=label) for label in labels)
        made.append(NearFleet(inventory=Inventory(hosts=hosts), connections=connections))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()
    for thread in threading.enumerate():
        if thread.name.startswith("follow "):
            thread.join(60)


def exit_of(node_rank: int, state: str, failure: Mapping[str, Any] | None) -> dict[str, Any]:
    """exit.json of a node of one rank."""
    rank = {"local_rank": 0, "rank": node_rank, "state": state, "exit": int(state == "failed")}
    return {
        "run": RUN, "node_rank": node_rank, "state": state, "exit": rank["exit"],
        "started_at": 100.0, "ended_at": 160.0, "loss": [2.5, 1.5], "jit_compiled": [],
        "ranks": [rank], "first_failure": failure, "stopped_by": None, "left": [],
    }  # fmt: skip


def write_node(folder: Path, node_rank: int, nnodes: int, state: str) -> None:
    """A node's run folder, as its supervisor leaves it; ``running``: this process supervises it."""
    (folder / "output").mkdir(parents=True)
    (folder / "output" / f"rank{node_rank}.safetensors").write_bytes(b"w" * 100)
    (folder / "node.log").write_text("hello\n")
    plan = {
        "run": RUN, "node_rank": node_rank, "nnodes": nnodes, "nproc_per_node": 1,
        "first_rank": node_rank, "argv": ["/env/bin/python", "-m", "trainer.sft"], "environ": {},
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    boot_id = read_boot_id() if state == "running" else "an earlier one"
    identity = read_identity(os.getpid())
    record = {"boot_id": boot_id, "supervisor": identity, "started_at": 100.0}
    (folder / "record.json").write_text(json.dumps(record))
    if state not in ("running", "lost"):
        ended = exit_of(node_rank, state, FAILURE if state == "failed" else None)
        (folder / "exit.json").write_text(json.dumps(ended))


@pytest.fixture
def run_on() -> Callable[..., KnownRun]:
    """Makes a run of one rank on each host of a fleet; keywords: how it stands there.

    ``nnodes``: how many hosts it was planned for, if not these.
    """

    def make(fleet: NearFleet, nnodes: int | None = None, **states: str) -> KnownRun:
        nodes: dict[str, Any] = {}
        for rank, (label, state) in enumerate(states.items()):
            folder = fleet[label].home / ".zerofleet" / "runs" / RUN
            write_node(folder, rank, nnodes or len(states), state)
            nodes[label] = read_run(str(folder))
        return KnownRun(run=RUN, nodes=nodes)

    return make

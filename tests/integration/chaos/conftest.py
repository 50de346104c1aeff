"""Four real hosts, real torchrun and gloo, our supervisors; a test breaks one and looks on.

Runs are planned as ``train`` plans them and put on the hosts without SSH, to spare the minutes of
preflight. ZEROFLEET_TEST_HOME names a home with a deployed environment, to go without the demo's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from provision.launch.failure import RunOutcome, parse_outcome
from provision.launch.nodes import NodeLaunch, plan_nodes
from provision.launch.plan import plan_json
from provision.launch.spec import RunHost, RunSpec, Script
from provision.script import read_onhost, script_argv
from tests.integration.cluster import cluster as bed
from tests.integration.faults.conftest import Hosts, make_hosts

HERE = Path(__file__).parent
HOME = os.environ.get("ZEROFLEET_TEST_HOME", "")
ALL = os.environ.get("ZEROFLEET_CHAOS") == "all"
PORT = 29640
START_SECONDS = 120.0
#: In the command line of a torchrun that was imported ahead (provision/onhost/waiting.py).
AHEAD = "torchrun, imported before its run"


#: What runs without ZEROFLEET_CHAOS=all: a case of each kind, for CI's minutes.
THIN = {
    "test_a_rank_raises[3]",
    "test_one_of_two_ranks_ends_and_the_other_heeds_no_sigterm[raises]",
    "test_a_rank_is_stopped_and_hangs_all_others",
    "test_a_host_without_power[3]",
    "test_a_link_is_cut_in_one_direction[4-in]",
    "test_a_supervisor_or_torchrun_is_killed[supervisor]",
    "test_a_port_taken_after_preflight_is_named",
    "test_a_stop_on_one_host_stops_all[4]",
    "test_by_hand_a_node_rank_given_twice_is_named_on_every_node",
    "test_nothing_stands_by_without_its_controller[SIGKILL]",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without root there are no such hosts: say so, and take no fixture's minutes."""
    lacking, left_out = bed.missing(), []
    for item in [item for item in items if HERE in item.path.parents]:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600, func_only=True))
        if lacking:
            item.add_marker(pytest.mark.skip(reason=lacking))
        if not ALL and item.name not in THIN:
            left_out.append(item)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@dataclass(kw_only=True)
class Chaos:
    """A run over the hosts of a cluster, of which any may be broken."""

    cluster: bed.Cluster
    python: str
    run: str = "chaos"
    port: int = PORT
    script: str = "rank.py"
    nproc: int = 1
    limits: dict[str, float] = field(default_factory=dict)
    nodes: tuple[NodeLaunch, ...] = ()

    def host(self, number: int) -> bed.Node:
        """A host by its number, from 1; its node_rank is one less."""
        return self.cluster.nodes[number - 1]

    def spec(self) -> RunSpec:
        """The run over all hosts, ``nproc`` ranks on each, as train makes it."""
        return RunSpec(
            run=self.run,
            hosts=tuple(
                RunHost(
                    name=node.name, slots=self.nproc, home=self.cluster.home,
                    nproc_per_node=self.nproc,
                    socket_interface="eth0", cores=1, address=node.address,
                )
                for node in self.cluster.nodes
            ),
            master_addr=self.cluster.nodes[0].address,
            master_port=self.port,
            python=self.python,
            accelerator="cpu",
            script=Script(path=self.script),
        )  # fmt: skip

    def plan(self) -> None:
        """Put the run's folder on every host, as train does."""
        spec = self.spec()
        self.nodes = plan_nodes(spec)
        for host, node in zip(self.cluster.nodes, self.nodes, strict=True):
            if not host.pid:
                continue
            plan = plan_json(spec, node)
            plan["limits"] = {"grace": spec.limits.grace, **self.limits}
            code = host.path(f"{node.run_dir}/code")
            code.mkdir(parents=True)
            (code / "rank.py").write_bytes((HERE / "rank.py").read_bytes())
            (code.parent / "plan.json").write_text(json.dumps(plan))

    def adopt(self, run: str) -> None:
        """Take a run that a command has started for this one."""
        self.run = run
        self.nodes = plan_nodes(self.spec())

    def file(self, number: int, name: str) -> Path:
        """A file of the run's folder on a host."""
        return self.host(number).path(f"{self.nodes[number - 1].run_dir}/{name}")

    def supervise(self, command: str, number: int) -> dict[str, Any]:
        """The answer of supervise.py on a host; a start is ordered as train orders it."""
        argv, given = script_argv("supervise", [command, self.nodes[number - 1].run_dir]), ""
        if command == "start":
            argv = script_argv("standby", [self.python.removeprefix("~/"), read_onhost("waiting")])
            given = json.dumps({"do": "start", "run_dir": self.nodes[number - 1].run_dir}) + "\n"
        said = self.host(number).run(["sh", "-c", '"$@"; true', "sh", *argv], given=given)
        answer = said.partition("ZEROFLEET<<")[2].partition(">>ZEROFLEET")[0]
        return dict(json.loads(answer))

    def start(self, *numbers: int) -> None:
        """Start the nodes, all of them unless some are named."""
        if not self.nodes:
            self.plan()
        for number in numbers or range(1, len(self.nodes) + 1):
            answer = self.supervise("start", number)
            assert "error" not in answer, answer

    def step(self, number: int) -> int:
        """The step that a host's last rank has done; 0 before the first."""
        file = self.file(number, f"step-{number * self.nproc - 1}")
        text = file.read_text() if file.exists() else ""
        return int(text or 0)

    def until_stepping(self, beyond: int = 0) -> None:
        """Wait until every rank has done some steps."""
        numbers = range(1, len(self.nodes) + 1)
        deadline = time.monotonic() + START_SECONDS
        while not all(self.step(number) > beyond for number in numbers):
            assert time.monotonic() < deadline, {n: self.log(n)[-2000:] for n in numbers}
            time.sleep(0.05)

    def log(self, number: int) -> str:
        """A host's node.log."""
        path = self.file(number, "node.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def record(self, number: int) -> dict[str, Any]:
        """Who the supervisor and torchrun are, as the host sees it."""
        return dict(json.loads(self.file(number, "record.json").read_text()))

    def signal(self, number: int, who: str, name: str) -> None:
        """Send a signal to a host's ``supervisor``, ``torchrun`` or ``rank``."""
        if who == "rank":
            (pid,) = self.ranks(number)
            os.kill(pid, signal.Signals[name])
        else:
            pid = self.record(number)[who]["pid"]
            self.host(number).run(["kill", f"-{name.removeprefix('SIG')}", str(pid)])

    def ranks(self, number: int) -> list[int]:
        """Pids of a host's ranks, as this machine sees them."""
        commands = self.host(number).commands().items()
        torchrun = "torch.distributed.run"
        return [pid for pid, c in commands if c.endswith(" rank.py") and torchrun not in c]

    def left(self, number: int) -> dict[int, str]:
        """torchrun and ranks that are on a host, whoever is their parent; torchrun ahead, too."""
        commands = self.host(number).commands().items()
        ours = ("rank.py", AHEAD)
        return {pid: command for pid, command in commands if any(word in command for word in ours)}

    def until_gone(self, numbers: Sequence[int], within: float) -> float:
        """Seconds until nothing of the run is left on these hosts; no more than ``within``."""
        begun = time.monotonic()
        while True:
            left = {n: found for n in numbers if (found := self.left(n))}
            took = time.monotonic() - begun
            if not left:
                return took
            assert took < within, (left, {n: self.log(n)[-1500:] for n in left})
            time.sleep(0.05)

    def exits(self, numbers: Sequence[int], within: float = 30.0) -> dict[str, dict[str, Any]]:
        """exit.json of these hosts, once all are there."""
        deadline, found = time.monotonic() + within, {}
        for number in numbers:
            path = self.file(number, "exit.json")
            while not path.exists():
                assert time.monotonic() < deadline, (number, self.log(number)[-2000:])
                time.sleep(0.05)
            found[self.host(number).name] = json.loads(path.read_text())
        return found

    def outcome(self, numbers: Sequence[int], **lost: str) -> RunOutcome:
        """What a user is told of the run."""
        return parse_outcome(self.run, self.exits(numbers), lost=lost)


@pytest.fixture(scope="module")
def desk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosts]:
    """Four hosts with a deployed environment in a network of their own, and a user's project."""
    demo = Path(HOME).parent
    if not HOME:
        done = request.getfixturevalue("demos")[-1]
        assert done.code == 0, done.said[-3000:]
        demo = done.folder
    made = make_hosts(tmp_path_factory.mktemp("chaos"), demo)
    (made.folder / "code").mkdir()
    shutil.copy(HERE / "rank.py", made.folder / "code")
    yield made
    made.cluster.close()


@pytest.fixture
def chaos(desk: Hosts) -> Iterator[Chaos]:
    """A run to be started; whatever is done to the hosts is undone after the test."""
    yield Chaos(cluster=desk.cluster, python="~/.zerofleet/current/bin/python")
    desk.cluster.mended()


@pytest.fixture
def figure(
    request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> Callable[[float, RunOutcome | str], None]:
    """Say what was measured, and what a user reads."""

    def say(seconds: float, read: RunOutcome | str) -> None:
        name = request.node.name.removeprefix("test_")
        first = str(read.first_failure) if isinstance(read, RunOutcome) else read
        with capfd.disabled():
            sys.stderr.write(f"\n{name}: {seconds:.1f} s; {first}\n")

    return say


@pytest.fixture
def hosts(desk: Hosts) -> Iterator[Hosts]:
    """The hosts; whatever is done to them is undone after the test."""
    yield desk
    desk.cluster.mended()

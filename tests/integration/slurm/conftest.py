"""A Slurm of four nodes, a user's desk on its head, and jobs that `invoke slurm` submits there.

ZEROFLEET_TEST_HOME names a home with a deployed environment, to go without the demo's.
ZEROFLEET_SLURM=all runs what CI's minutes have no room for, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.slurm import bed

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[2]
HOME = os.environ.get("ZEROFLEET_TEST_HOME", "")
ALL = os.environ.get("ZEROFLEET_SLURM") == "all"
NODES = 4
#: What runs with ZEROFLEET_SLURM=all only: of what differs little, one case is enough every day.
LONG = {
    "test_a_stopped_run_goes_on_as_another_job",
    "test_a_lost_node_is_replaced_and_the_job_goes_on[1]",
    "test_losses_go_on_as_if_nothing_had_been",
}
#: States of a job that is still to run, or does.
ON = (
    "PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "REQUEUED", "SUSPENDED",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without Slurm there are no such tests: say so, and take no fixture's minutes."""
    lacking, left_out = bed.missing(), []
    for item in [item for item in items if HERE in item.path.parents]:
        item.add_marker(pytest.mark.timeout(1200, func_only=True))
        if lacking:
            item.add_marker(pytest.mark.skip(reason=lacking))
        if item.name in LONG and not ALL:
            left_out.append(item)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submitted job, and the folder of its run."""

    slurm: bed.Slurm
    number: str
    run_dir: Path

    def shown(self) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.slurm.say("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until(self, seconds: float, met: Callable[[], bool], what: str) -> None:
        """Wait until something is so; what the job said goes with the failure."""
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, f"not {what}: {self.shown()}\n{self.said()}"
            time.sleep(0.2)

    def ended(self, seconds: float = 240) -> str:
        """Its state, once it is over."""
        state = ""

        def over() -> bool:
            nonlocal state
            state = self.shown()["JobState"]
            return state not in ON

        self.until(seconds, over, "ended")
        return state

    def restarted(self, seconds: float = 200) -> None:
        """Wait until Slurm has put it back into the queue once more."""
        shown: dict[str, str] = {}

        def decided() -> bool:
            shown.update(self.shown())
            return shown["Restarts"] != "0" or shown["JobState"] not in ON

        self.until(seconds, decided, "restarted")
        assert shown["Restarts"] != "0", self.said()

    def nodes(self, attempt: int = 0) -> list[str]:
        """The nodes of an attempt, in the order of their node ranks."""
        return (self.run_dir / f"attempt-{attempt}" / "nodes").read_text().split()

    def log(self) -> str:
        """What the job file itself said, over all attempts."""
        file = self.run_dir / "job.log"
        return file.read_text() if file.exists() else ""

    def said(self) -> str:
        """Ends of all its logs, for a test that failed."""
        logs = [self.run_dir / "job.log", *sorted(self.run_dir.glob("attempt-*/node*/node.log"))]
        return "\n".join(f"== {log}\n{log.read_text()[-2500:]}" for log in logs if log.exists())

    def events(self) -> dict[str, list[dict[str, Any]]]:
        """The run's record, by event."""
        found: dict[str, list[dict[str, Any]]] = {}
        file = self.run_dir / "metrics.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            event = json.loads(line)
            found.setdefault(event["event"], []).append(event)
        return found

    def left(self) -> dict[str, list[str]]:
        """Processes on the nodes that belong to jobs, by node."""
        found = {node: self.slurm.commands(node) for node in self.slurm.nodes}
        return {node: lines for node, lines in found.items() if lines}


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where a user works on the head: a project, a model, an environment that all nodes see."""

    slurm: bed.Slurm
    folder: Path
    python: Path
    model: Path
    environ: Mapping[str, str]
    checkout: Path = CHECKOUT

    @property
    def training(self) -> list[str]:
        """Flags of a fine-tune with ZeRO-2."""
        data = self.checkout / "examples" / "conversations.jsonl"
        return ["--zero=2", f"--model={self.model}", f"--data={data}"]

    def invoke(
        self, *words: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``invoke …``, typed on the head."""
        more = {**self.environ, **(environ or {})}
        return self.slurm.login(self.argv(*words), cwd=self.folder, environ=more)

    def argv(self, *words: str) -> list[str]:
        """``invoke …`` of this checkout."""
        return [sys.executable, "-P", "-m", "invoke", "--search-root", str(CHECKOUT), *words]

    def about(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """``invoke COMMAND …`` of the runs in the folder that all nodes see."""
        return self.invoke(command, *words, f"--shared={self.folder}")

    def left_running(self, command: str, *words: str) -> subprocess.Popen[str]:
        """The same, and go on meanwhile."""
        return subprocess.Popen(
            self.slurm.on_head(self.argv(command, *words, f"--shared={self.folder}"), self.folder),
            env={**os.environ, **self.slurm.environ(), **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def asked(self, *words: str) -> list[str]:
        """``slurm …`` for two nodes with two ranks each, and all else that ``words`` don't say."""
        usual = {
            "nodes": 2, "gpus": 2, "cpus-per-task": 2, "time": 30, "accelerator": "cpu",
            "python": self.python, "shared": self.folder,
        }  # fmt: skip
        said = {word.removeprefix("--").partition("=")[0] for word in words}
        flags = [f"--{name}={value}" for name, value in usual.items() if name not in said]
        return ["slurm", *flags, *words]

    def submit(
        self, *words: str, after: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> Job:
        """Submit such a run; ``environ``: variables more that the job gets."""
        done = self.invoke(*self.asked(*words), "--submit", "--json", *after, environ=environ)
        assert done.returncode == 0, done.stderr[-3000:]
        answer = json.loads(done.stdout)
        run_dir = self.folder / ".zerofleet" / "runs" / answer["run"]
        return Job(slurm=self.slurm, number=answer["job"], run_dir=run_dir)

    def script(self, what: str, *words: str) -> Job:
        """Submit ``rank.py WHAT`` in place of a training."""
        (self.folder / "rank.py").write_bytes((HERE / "rank.py").read_bytes())
        fixed = ["--script=rank.py", "--no-preflight", "--sbatch=--gres=gpu:2"]
        return self.submit(*fixed, *words, after=("--", what))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bed.Slurm]:
    """A running Slurm with idle nodes node1 … node4."""
    running = bed.start(tmp_path_factory.mktemp("slurm") / "bed", NODES)
    yield running
    running.close()


@pytest.fixture(scope="session")
def desk(
    request: pytest.FixtureRequest, slurm: bed.Slurm, cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Desk:  # fmt: skip
    """A user's desk, with the environment that a host was deployed."""
    demo = Path(HOME).parent
    if not HOME:
        done = request.getfixturevalue("demos")[-1]
        assert done.code == 0, done.said[-3000:]
        demo = done.folder
    folder = tmp_path_factory.mktemp("desk")
    (folder / "env").symlink_to((demo / "node1" / ".zerofleet" / "current").resolve())
    return Desk(
        slurm=slurm,
        folder=folder,
        python=folder / "env" / "bin" / "python",
        model=demo / "model",
        environ={"XDG_CACHE_HOME": str(cache / "xdg")},
    )

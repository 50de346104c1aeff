"""Four real hosts, ready to train; a test breaks something on them and reads what is said of it.

The environment is the demo's: every host's home begins with that of the demo's node1, at the same
path. What a test does to a host is undone after it: the host is booted as it was when new.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from provision.demo.fleet import CHECKOUT, render_tasks
from provision.demo.story import DATA, demo_settings
from tests.integration.cluster import cluster as bed

if TYPE_CHECKING:
    from tests.integration.conftest import DemoRun

FAILS = ("error", "unknown")
#: A warning about two cores that do all of this at once, and do other tests beside.
BUSY = {("cpu speed", "warn")}
#: A host, and what of it is accused.
Accused = tuple[str, str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root there are no such hosts: say so, and take no fixture's minutes."""
    here, lacking = Path(__file__).parent, bed.missing()
    for item in items:
        if lacking and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=lacking))


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command said: exit code, JSON object, and the lines that a person reads."""

    code: int
    answer: dict[str, Any]
    stderr: str

    @property
    def failing(self) -> list[dict[str, str]]:
        """The findings that keep a run from starting."""
        return [f for f in self.answer.get("findings", []) if f["level"] in FAILS]

    @property
    def lines(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.stderr.splitlines() if line.startswith(FAILS)]

    def line(self, host: str, subject: str, *others: Accused, code: int = 1) -> str:
        """The line about this host and subject, remedy included. The command exited with ``code``,
        and nothing else of this host, and no other host, is accused but of ``others``.
        """
        assert "Traceback" not in self.stderr, self.stderr[-3000:]
        assert self.code == self.answer["exit"] == code, self.stderr[-3000:]
        accused = {(f["host"], f["subject"]) for f in self.failing}
        assert accused == {(host, subject), *others}, self.stderr[-3000:]
        (line,) = [line for line in self.lines if f": {host}: {subject}: " in line]
        remedies = {
            f["remedy"] for f in self.failing if (f["host"], f["subject"]) == (host, subject)
        }
        assert all(remedy and line.endswith(remedy) for remedy in remedies), line
        return line

    def healthy(self) -> None:
        """Everything was asked, and all of it is well."""
        assert self.code == 0, self.stderr
        assert self.answer["findings"]
        odd = [f for f in self.answer["findings"] if f["level"] != "ok"]
        assert not [f for f in odd if (f["subject"], f["level"]) not in BUSY]


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """The hosts, and the folder from which a user works with them."""

    cluster: bed.Cluster
    folder: Path
    wheels: Path

    def __getitem__(self, name: str) -> bed.Node:
        return self.cluster.node(name)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """``invoke args --json``, in the controller's network."""
        argv = [*self.cluster.entry(), sys.executable, "-P", "-m", "invoke"]
        argv += [*args, "--json"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def invoke(self, *args: str) -> Said:
        """What ``invoke args --json`` says; it must end within four minutes."""
        return read_said(self.start(*args))

    def preflight(self, *args: str) -> Said:
        """What preflight says of the hosts as they are."""
        return self.invoke("preflight", *args)


Mended = Callable[[], AbstractContextManager[Hosts]]


def read_said(process: subprocess.Popen[str], within: float = 240) -> Said:
    """What a command says, once it ended."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end in {within:.0f} s: {err[-3000:]}") from None
    assert out.count("\n") == 1, err[-3000:]
    return Said(code=process.returncode, answer=json.loads(out), stderr=err)


@pytest.fixture(scope="module")
def four(demos: list[DemoRun], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Four healthy hosts: environment deployed, model and data at hand."""
    demo = demos[-1]
    assert demo.code == 0, demo.said[-3000:]
    folder = tmp_path_factory.mktemp("faults")
    hosts = make_hosts(folder, demo.folder)
    yield hosts
    hosts.cluster.close()


def make_hosts(folder: Path, demo: Path) -> Hosts:
    """Four hosts, and in ``folder`` a project that names them. ``demo``: the demo's folder."""
    seed, home = folder / "seed", demo / "node1"
    shutil.copytree(demo / "model", seed / "model")
    shutil.copyfile(DATA, seed / "data.jsonl")
    cluster = bed.start(folder / "cluster", 4, home=str(home), lower=(str(seed), str(home)))
    settings = {
        **demo_settings(demo),
        "hosts": str(cluster.folder / "hosts.txt"),
        "ssh_config": str(cluster.ssh_config),
        "wheels": str(demo / "wheels"),
        "model": "~/model",
        "data": f"{home}/data.jsonl",
        "connect_timeout": 30,  # of a busy machine; a host that is off is known sooner (ARP)
    }
    (folder / "invoke.yaml").write_text(yaml.safe_dump({"zerofleet": settings}))
    (folder / "tasks.py").write_text(render_tasks(CHECKOUT))
    return Hosts(cluster=cluster, folder=folder, wheels=demo / "wheels")


@pytest.fixture(scope="module")
def mended(four: Hosts) -> Mended:
    """``with mended() as hosts``: what is done to the hosts in the block is undone after it."""

    @contextmanager
    def context() -> Iterator[Hosts]:
        try:
            yield four
        finally:
            four.cluster.mended()

    return context


@pytest.fixture
def hosts(four: Hosts, mended: Mended) -> Iterator[Hosts]:
    """The four hosts; whatever a test does to them is undone after it."""
    with mended():
        yield four

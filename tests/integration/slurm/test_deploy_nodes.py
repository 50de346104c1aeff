"""`invoke deploy --slurm` on a real Slurm: nodes that share a home, nodes with their own.

What is deployed is small (tests/integration/kill/stage.py); all else is what it always is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kill.stage import bring_uv, make_checkout, make_deepspeed, make_packages
from tests.integration.slurm import bed

TWO = "--sbatch=--nodelist=node1,node2"


@dataclass(frozen=True, kw_only=True)
class Site:
    """A user's folder on the head. ``home``: what nodes have for HOME, together or each its own.

    ``locks``: the packages of two environments.
    """

    slurm: bed.Slurm
    folder: Path
    home: Path
    environ: dict[str, str]
    locks: tuple[str, str]

    def invoke(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``invoke …``, typed on the head."""
        argv = [sys.executable, "-P", "-m", "invoke"]
        argv += ["--search-root", str(self.folder / "checkout"), *words]
        return self.slurm.login(argv, cwd=self.folder, environ=self.environ, timeout=300)

    def deploy(self, *flags: str) -> tuple[int, dict[str, Any], str]:
        """(exit code, JSON object, what else it said) of ``deploy`` to nodes."""
        done = self.invoke("deploy", f"--shared={self.home}", "--json", *flags)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr

    def started(self, *flags: str) -> subprocess.Popen[str]:
        """A deploy, left running on the head."""
        enter = [shutil.which("nsenter") or "nsenter", f"--target={self.slurm.pids['head']}"]
        enter += ["--mount", "--uts", "--ipc", "--net", "--pid", f"--wd={self.folder}"]
        argv = [sys.executable, "-P", "-m", "invoke", "--search-root"]
        argv += [str(self.folder / "checkout"), "deploy", f"--shared={self.home}", *flags]
        return subprocess.Popen(
            [*enter, "--", *argv], env=os.environ | self.slurm.environ() | self.environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def state(self, job: str) -> str:
        """A job's state."""
        return self.slurm.say("squeue", "--noheader", "--jobs", job, "--format=%T").strip()

    def idle(self, seconds: float = 180) -> None:
        """Wait until Slurm has no job, and the nodes no process of one."""
        deadline, left = time.monotonic() + seconds, "?"
        while left:
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
            left = self.slurm.say("squeue", "--noheader")
            left += "".join(" ".join(self.slurm.commands(node)) for node in self.slurm.nodes)


@pytest.fixture(scope="module")
def shared(
    slurm: bed.Slurm, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Nodes that see one home."""
    folder = tmp_path_factory.mktemp("site")
    wheels, house = folder / "wheels", folder / "house"
    for path in (wheels, house, folder / "home"):
        path.mkdir()
    torch, big, *ones = make_packages(house)
    make_deepspeed(wheels, torch)
    bring_uv(house, cache / "xdg")
    make_checkout(folder / "checkout", {"wheels": str(wheels)})
    locks = (big.line + ones[0].line, big.line + ones[1].line)
    (folder / "checkout" / "locks" / "train.lock").write_text(locks[0])
    environ = {"PIP_FIND_LINKS": house.as_uri(), "PIP_NO_INDEX": "1"}
    environ["XDG_CACHE_HOME"] = str(folder / "cache")
    yield Site(slurm=slurm, folder=folder, home=folder / "home", environ=environ, locks=locks)
    slurm.say("scancel", "--user=root")
    slurm.mend()


@pytest.fixture(scope="module")
def private(shared: Site) -> Site:
    """The same site, whose nodes have disks of their own where its home is."""
    home = shared.folder / "local"
    home.mkdir()

    for node in shared.slurm.nodes:
        disk = shared.folder / f"disk-{node}"
        disk.mkdir()
        enter = ["nsenter", f"--target={shared.slurm.pids[node]}", "--mount", "--"]
        subprocess.run([*enter, "mount", "--bind", str(disk), str(home)], check=True)
    # They end with the bed.
    return replace(shared, home=home)


def test_a_shared_home_is_given_one_environment_and_goes_back_to_it(shared: Site) -> None:
    code, answer, said = shared.deploy("--slurm=debug", TWO)
    assert code == 0, said
    hosts = answer["hosts"]
    assert list(hosts) == answer["slurm"]["nodes"] == ["node1", "node2"]
    assert all(host["changed"] for host in hosts.values())
    assert hosts["node1"]["bytes_sent"] > 6_000_000
    assert hosts["node2"]["bytes_sent"] == 0
    current = shared.home / ".zerofleet" / "current"
    assert str(current.resolve()) == hosts["node1"]["env"] == hosts["node2"]["env"]
    assert (current / "complete.json").is_file()
    assert len((shared.home / ".zerofleet" / "history.jsonl").read_text().splitlines()) == 1
    shared.idle()

    code, answer, said = shared.deploy("--slurm=debug", "--nodes=3", "--dry-run")
    assert code == 0, said
    assert answer["plan"] == {"phases": []}

    (shared.folder / "checkout" / "locks" / "train.lock").write_text(shared.locks[1])
    code, _, said = shared.deploy("--slurm=debug", TWO)
    assert code == 0, said
    newer = current.readlink()
    done = shared.invoke("rollback", "--slurm=debug", TWO, f"--shared={shared.home}", "--json")
    assert done.returncode == 0, done.stderr
    was = {"env": Path(hosts["node1"]["env"]).name, "was": newer.name}
    assert json.loads(done.stdout)["hosts"] == {"node1": was}
    assert current.readlink().name == was["env"]
    shared.idle()


def test_nodes_with_homes_of_their_own_are_filled_and_what_is_damaged_there_is_sent_anew(
    private: Site,
) -> None:
    job = private.slurm.say("sbatch", "--parsable", "--nodes=2", TWO.partition("=")[2],
                            "--output=/dev/null", "--wrap=sleep 600").strip()  # fmt: skip
    (wheel,) = (private.folder / "house").glob("big-*.whl")
    store = hashlib.sha256(wheel.read_bytes()).hexdigest()
    damaged = private.folder / "disk-node2" / ".zerofleet" / "store" / store / wheel.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(wheel.read_bytes()[:-1] + b"?")
    while private.state(job) != "RUNNING":
        time.sleep(0.2)

    code, answer, said = private.deploy(f"--slurm={job}")
    assert code == 0, said
    assert damaged.read_bytes() == wheel.read_bytes()
    for node in ("node1", "node2"):
        here = private.folder / f"disk-{node}" / ".zerofleet" / "current"
        assert here.readlink().name == Path(answer["hosts"][node]["env"]).name
        assert (here / "complete.json").is_file()
    assert private.state(job) == "RUNNING"
    private.slurm.say("scancel", job)
    private.idle()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_deploy_that_is_ended_leaves_no_job_and_no_process(how: int, private: Site) -> None:
    nodes = "--sbatch=--nodelist=node3,node4"
    process = private.started("--slurm=debug", nodes, "--limit=500kB/s")
    assert process.stderr
    said = ""
    while "push: " not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(1)
    os.killpg(process.pid, how)
    process.communicate(timeout=240)
    private.idle()
    for node in ("node3", "node4"):
        assert not (private.folder / f"disk-{node}" / ".zerofleet" / "current").is_symlink()


def test_what_slurm_refuses_or_has_no_nodes_for_is_one_line(shared: Site) -> None:
    shared.slurm.say("sbatch", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    for flags, code, words in (
        (["--slurm=nope"], 2, "salloc: found invalid partition specified: nope"),
        (["--slurm=debug", "--time=100:00:00"], 2, "for ever: PartitionTimeLimit"),
        (["--slurm=77777"], 2, "--slurm 77777: found Slurm job 77777: unknown to Slurm"),
        (["--slurm=debug", "--wait=2"], 1, "Slurm: allocation: found it still waits after 2 s ("),
    ):
        found, _, said = shared.deploy(*flags)
        line = said.strip().splitlines()[-1]
        assert found == code, said
        assert line.startswith("error: ")
        assert words in line
    assert len(shared.slurm.say("squeue", "--noheader").splitlines()) == 1
    shared.slurm.say("scancel", "--user=root")
    shared.idle()

"""What is brought of a run: the union of all hosts' outputs, and each host's records."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.errors import HostError, ProvisionError, UnreachableError
from provision.fleet import Fleet
from provision.inventory import Host, Inventory
from provision.launch.collect import apply_collect, plan_collect
from provision.launch.failure import parse_outcome
from provision.launch.results import apply_results
from provision.show import Answer
from provision.slurm.read import read_here

RUN_DIRS = {"node1": "/home/a/runs/r", "node2": "/home/b/runs/r"}


def file(path: str, sha: str = "0") -> dict[str, object]:
    return {"path": path, "size": 1, "sha256": sha}


def targets(outputs, files):
    return {f.target: f.host for f in plan_collect(RUN_DIRS, outputs, files)}


def test_shards_of_all_hosts_meet_and_node_0s_file_wins():
    outputs = {"node1": "/home/a/runs/r/output", "node2": "/home/b/runs/r/output"}
    files = {
        "node1": [
            file("/home/a/runs/r/output/adapter.safetensors"),
            file("/home/a/runs/r/exit.json"),
        ],
        "node2": [
            file("/home/b/runs/r/output/adapter.safetensors"),
            file("/home/b/runs/r/output/checkpoint-1/global_step1/rank_1.pt"),
            file("/home/b/runs/r/exit.json"),
        ],
    }
    assert targets(outputs, files) == {
        "output/adapter.safetensors": "node1",
        "hosts/node1/exit.json": "node1",
        "output/checkpoint-1/global_step1/rank_1.pt": "node2",
        "hosts/node2/exit.json": "node2",
    }


def test_an_output_folder_elsewhere_is_still_the_output():
    outputs = {"node1": "/data/out", "node2": "/data/out"}
    files = {"node1": [file("/data/out/a.bin"), file("/home/a/runs/r/node.log")]}
    assert targets(outputs, files) == {
        "output/a.bin": "node1",
        "hosts/node1/node.log": "node1",
    }


@pytest.mark.parametrize(
    "path",
    ["/home/a/.ssh/id_rsa", "/home/a/runs/r/output/../../../x", "/", "/home/a/runs", "x", "../x"],
)
def test_a_host_names_no_place_outside_the_runs_folder(path):
    with pytest.raises(HostError, match="node1: files of the run: found"):
        targets({"node1": "/home/a/runs/r/output"}, {"node1": [file(path)]})


class Near:
    """A host that is this machine; ``before`` happens before each of its files is brought."""

    def __init__(self, label: str, before: Callable[[Path], None] = lambda _: None) -> None:
        self.label, self.before = label, before

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def ask(self, script: str, args: Any, **_: Any) -> dict[str, Any]:
        return read_here(script, args)

    def get(self, source: str, target: Path) -> None:
        self.before(Path(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def fleet_of(*hosts: Near) -> Fleet:
    connections: dict[str, Any] = {host.label: host for host in hosts}
    inventory = Inventory(hosts=tuple(Host(name=host.label) for host in hosts))
    return Fleet(inventory=inventory, connections=connections)


@pytest.fixture
def run(tmp_path: Path) -> dict[str, str]:
    """A run's folder on each of two hosts."""
    folders = {host: tmp_path / host / "run" for host in ("node1", "node2")}
    for host, folder in folders.items():
        (folder / "output").mkdir(parents=True)
        (folder / "output" / f"{host}.safetensors").write_bytes(b"w" * 1000)
        (folder / "node.log").write_text("one\n")
        (folder / "metrics.jsonl").write_text('{"event": "begin", "optimizer": "A"}\n{"eve')
    return {host: str(folder) for host, folder in folders.items()}


def outputs_of(run: dict[str, str]) -> dict[str, str]:
    return {host: f"{folder}/output" for host, folder in run.items()}


def test_of_a_file_that_grows_comes_what_was_listed(run: dict[str, str], tmp_path: Path) -> None:
    def grow(path: Path) -> None:
        if path.name == "node.log":
            path.write_text(path.read_text() + "two\n")

    fleet = fleet_of(*(Near(host, grow) for host in run))
    done = apply_collect(fleet, run, outputs_of(run), tmp_path / "here", print)
    assert (done.missing, done.came) == ({}, 6)
    assert (tmp_path / "here/hosts/node2/node.log").read_text() == "one\n"
    again = apply_collect(fleet, run, outputs_of(run), tmp_path / "here", print)
    assert (again.came, again.kept) == (2, 4)
    assert (tmp_path / "here/hosts/node2/node.log").read_text() == "one\ntwo\n"


def test_a_file_that_changes_is_said_and_the_others_come(
    run: dict[str, str], tmp_path: Path
) -> None:
    def change(path: Path) -> None:
        if path.name == "node2.safetensors":  # the first of its files
            path.write_bytes(b"v" * 1000)

    said: list[str] = []
    fleet = fleet_of(*(Near(host, change) for host in run))
    done = apply_collect(fleet, run, outputs_of(run), tmp_path / "here", said.append)
    assert (done.came, list(done.missing)) == (5, ["node2"])
    assert any(line.startswith("not collected: node2: ") for line in said)
    assert not (tmp_path / "here/output/node2.safetensors").exists()
    assert (tmp_path / "here/hosts/node2/metrics.jsonl").exists()


FAILURE = {"rank": 1, "local_rank": 0, "at": 1.0, "reason": "ValueError: boom", "lines": [],
           "symptom": False}  # fmt: skip


def exit_of(node_rank: int, state: str) -> dict[str, Any]:
    rank = {"local_rank": 0, "rank": node_rank, "state": state, "exit": int(state == "failed")}
    return {
        "node_rank": node_rank, "state": state, "exit": 1, "started_at": 1.0, "ended_at": 2.0,
        "loss": None, "jit_compiled": [], "ranks": [rank],
        "first_failure": FAILURE if state == "failed" else None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("node2: ssh", found="it ended", expected="a session", remedy="look"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_transfer_that_fails_hides_no_failure(
    run: dict[str, str], tmp_path: Path, error: ProvisionError | OSError
) -> None:
    def fail(_: Path) -> None:
        raise error

    fleet = fleet_of(Near("node1"), Near("node2", fail))
    exits = {"node1": exit_of(0, "stopped"), "node2": exit_of(1, "failed")}
    said: list[str] = []
    result = apply_results(
        fleet, parse_outcome("r", exits), run, outputs_of(run), tmp_path / "runs", said.append
    )
    out = Answer(json=True)
    out.outcome(result)
    assert out.exit == 5
    assert out.values["first_failure"]["reason"] == "ValueError: boom"
    assert "node2" in out.values["not_collected"]
    assert "not all of" in str(result)
    assert "invoke collect r" in str(result)
    assert any("not collected: " in line for line in said)


def test_a_run_that_finished_and_was_not_brought_whole_is_not_ok(
    run: dict[str, str], tmp_path: Path
) -> None:
    def stop(_: Path) -> None:
        raise UnreachableError("node2: ssh", found="it", expected="a session", remedy="look")

    exits = {host: {**exit_of(n, "finished"), "exit": 0} for n, host in enumerate(run)}
    fleet, outcome = fleet_of(Near("node1"), Near("node2", stop)), parse_outcome("r", exits)
    result = apply_results(fleet, outcome, run, outputs_of(run), tmp_path / "runs", print)
    out = Answer(json=True)
    out.outcome(result)
    assert (out.exit, result.optimizer) == (1, "A")  # though half a line follows


def test_a_host_that_nothing_is_asked_of_any_more_is_named_and_not_waited_for(
    run: dict[str, str], tmp_path: Path
) -> None:
    def ask(_: Path) -> None:
        pytest.fail("node2 was asked")

    fleet = fleet_of(Near("node1"), Near("node2", ask))
    outcome = parse_outcome("r", {"node1": exit_of(0, "failed")}, lost={"node2": "gone"})
    away = {"node2": "gone"}
    folder = tmp_path / "runs"
    result = apply_results(fleet, outcome, run, outputs_of(run), folder, print, unreached=away)
    assert (result.missing, result.optimizer) == (away, "A")
    none = apply_results(
        fleet_of(), outcome, run, outputs_of(run), folder, print, unreached=dict.fromkeys(run, "")
    )
    assert list(none.missing) == ["node1", "node2"]

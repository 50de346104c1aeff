"""The nodes of a job look at one another: as threads of this process, over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.onhost import node_checks
from provision.onhost.node_checks import (
    differences,
    gather_nodes,
    main,
    read_gpus,
    read_node,
    read_versions,
    tell,
)

ENV = {"python": "3.11.2", "torch": "2.13.0", "deepspeed": "0.19.1", "transformers": "5.3.0"}


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, on the first node of job 7."""
    monkeypatch.setattr(node_checks, "PATIENCE", 60.0)
    monkeypatch.setattr(node_checks, "PAUSE", 0.01)
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NODEID": "0", "MASTER_ADDR": "node1"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def node(number: int, **changes: str | None) -> dict[str, Any]:
    return {
        "node": number,
        "name": f"node{number + 1}",
        "versions": {**ENV, **changes},
        "gpus": 2,
        "problems": [],
    }


def gathering(
    pool: ThreadPoolExecutor, own: dict[str, Any], port: int, nnodes: int
) -> Future[list[dict[str, Any]]]:
    """Node 0 at work; it listens when this returns, and somebody has hung up on it already."""
    found = pool.submit(gather_nodes, own, port, nnodes)
    while not found.done():
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                break
    return found


def test_nodes_that_are_alike_fit(port: int, pool: ThreadPoolExecutor) -> None:
    own = node(0)
    found = gathering(pool, own, port, 3)
    told = [pool.submit(tell, node(number), "127.0.0.1", port) for number in (2, 1)]
    assert [one.result() for one in told] == [[], []]
    # At once, not after PATIENCE.
    assert [one["name"] for one in found.result(timeout=50)] == ["node1", "node2", "node3"]
    assert own["problems"] == []


def test_a_node_with_another_environment_is_told_so(port: int, pool: ThreadPoolExecutor) -> None:
    own = node(0)
    found = gathering(pool, own, port, 3)
    odd = node(2, torch="2.12.0", deepspeed=None)
    odd["problems"] = ["/data is not there"]
    good = pool.submit(tell, node(1), "127.0.0.1", port)
    assert tell(odd, "127.0.0.1", port) == [
        "/data is not there",
        "torch 2.12.0, on node 0 it is 2.13.0",
        "deepspeed None, on node 0 it is 0.19.1",
    ]
    assert good.result() == []
    assert [len(one["problems"]) for one in found.result()] == [0, 0, 3]
    assert own["problems"] == []


def test_a_node_that_does_not_come_is_named(
    port: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(node_checks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    own = node(0)
    found = gathering(pool, own, port, 4)
    assert tell(node(2), "127.0.0.1", port) == []
    now[0] = 61.0
    with socket.socket() as line:
        line.connect_ex(("127.0.0.1", port))  # it looks at the clock after each that comes
    assert [one["name"] for one in found.result()] == ["node1", "node3"]
    (problem,) = own["problems"]
    assert problem.startswith("node 1, 3 did not come to this port within 60 s: ")
    assert problem.endswith("the address that node1 stands for there")


def test_another_jobs_node_is_not_taken_for_ours(port: int, pool: ThreadPoolExecutor) -> None:
    found = gathering(pool, node(0), port, 2)
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(json.dumps({**node(1), "job": "8", "name": "theirs"}).encode() + b"\n")
        assert line.recv(100) == b""
    assert tell(node(1), "127.0.0.1", port) == []
    assert [one["name"] for one in found.result()] == ["node1", "node2"]


def test_a_port_that_is_taken_is_node_0s_problem(port: int) -> None:
    with socket.create_server(("", port)):
        own = node(0)
        assert gather_nodes(own, port, 2) == [own]
    assert own["problems"] == [f"port {port} can't be used: Address already in use"]


def test_a_node_that_does_not_reach_the_first_one_says_where(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=count(0.0, 20.0).__next__, sleep=lambda _: None)
    monkeypatch.setattr(node_checks, "time", clock)
    own = node(1)
    own["problems"] = ["1 GPUs for 2 ranks (…)"]
    first, second = tell(own, "127.0.0.1", port)
    assert first == "1 GPUs for 2 ranks (…)"
    assert second.startswith(f"node 0 can't be reached at 127.0.0.1 port {port}: ")
    assert "Connection refused" in second


def test_what_differs() -> None:
    assert differences(ENV, dict(ENV)) == []
    assert differences(ENV, {**ENV, "python": "3.12.1", "more": "1"}) == [
        "python 3.12.1, on node 0 it is 3.11.2"
    ]


def test_an_environment_that_lacks_what_ranks_import() -> None:
    found = read_versions()
    assert found["python"]
    assert found["deepspeed"] is None  # the controller has none
    assert set(found) == set(ENV)


def test_gpus_are_torchs_word_and_nobodys_where_none_are_wanted(port: int) -> None:
    assert read_gpus("cpu") == (None, "")
    assert read_gpus("cuda") == (0, "torch: No module named 'torch'")
    (problem,) = read_node(2, "cuda", [])["problems"]
    assert problem == "0 GPUs for 2 ranks (torch: No module named 'torch')"


def test_one_node_alone(
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert main(1, "cpu", [str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(f"; all reach port {port}\n")
    assert main(1, "cpu", [f"{tmp_path}/model"]) == 1
    said = capsys.readouterr()
    assert "; 1 of them do not fit" in said.out
    assert said.err.endswith(f"(node 0): {tmp_path}/model is not there\n")

"""What is brought of a run: the union of all hosts' outputs, and each host's records."""

from __future__ import annotations

import pytest

from provision.errors import HostError
from provision.launch.collect import plan_collect

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

"""What a host's disk, memory, processor and files can do to a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.cluster.cluster import Node
    from tests.integration.faults.conftest import Hosts, Mended, Said


def run_folder(node: Node, options: str) -> str:
    """The folder that runs write to, on a file system of its own."""
    runs = f"{node.cluster.home}/.zerofleet/runs"
    node.run(["mkdir", "-p", runs])
    node.run(["mount", "-t", "tmpfs", "-o", options, "small", runs])
    return runs


ROOM = (
    ("node1", "output"),
    ("node2", "output"),
    ("node3", "output"),
    ("node4", "/dev/shm"),
)


@pytest.fixture(scope="module")
def room(mended: Mended) -> Said:
    """What is said of four hosts, each short of something else."""
    with mended() as hosts:
        full = run_folder(hosts["node1"], "size=16m")
        hosts["node1"].run(["sh", "-c", f"cat /dev/zero >'{full}/filler' 2>/dev/null || true"])
        crowded = run_folder(hosts["node2"], "nr_inodes=16")
        touch = f"for i in $(seq 20); do touch '{crowded}'/$i 2>/dev/null || true; done"
        hosts["node2"].run(["sh", "-c", touch])
        run_folder(hosts["node3"], "ro")
        hosts["node4"].run(["mount", "-o", "remount,size=64m", "/dev/shm"])
        return hosts.preflight()


def test_a_full_disk(room: Said) -> None:
    line = room.line("node1", "output", *ROOM)
    assert "found 0 bytes free on" in line
    assert "df -h" in line
    assert "--output" in line


def test_a_disk_without_inodes(room: Said) -> None:
    line = room.line("node2", "output", *ROOM)
    assert ": 0 inodes left" in line
    assert "df -i" in line


def test_a_read_only_output(room: Said) -> None:
    line = room.line("node3", "output", *ROOM)
    assert "/runs: Read-only file system" in line
    assert "--output" in line


def test_little_shared_memory(room: Said) -> None:
    line = room.line("node4", "/dev/shm", *ROOM)
    assert "found 67.1 MB free of 67.1 MB" in line
    assert "mount -o remount,size=8G /dev/shm" in line


BYTES = (("node2", "data bytes"), ("node3", "model"), ("node4", "model bytes"))


@pytest.fixture(scope="module")
def files(mended: Mended) -> Said:
    """What is said where model and data are not the same on all hosts."""
    with mended() as hosts:
        rows = hosts["node2"].path("~/data.jsonl")
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
        hosts["node3"].run(["rm", "-r", f"{hosts['node3'].cluster.home}/model"])
        weights = next(hosts["node4"].path("~/model").glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        return hosts.preflight()


def test_other_data_on_one_host(files: Said) -> None:
    line = files.line("node2", "data bytes", *BYTES)
    assert re.search(r"as on 3 hosts: it is .*/data\.jsonl: copy ", line)


def test_a_model_missing_on_one_host(files: Said) -> None:
    line = files.line("node3", "model", *BYTES)
    assert "found no such folder, expected a model folder at ~/model" in line


def test_other_weights_on_one_host(files: Said) -> None:
    line = files.line("node4", "model bytes", *BYTES)
    assert "as on 2 hosts: it is model.safetensors: copy " in line


Limit = Callable[["Node", str, "dict[str, str]", "dict[str, str]"], None]


@pytest.fixture
def limited(hosts: Hosts) -> Iterator[Limit]:
    """``limited(node, controller, v1, v2)``: a host's processes in a control group with these
    files; the host sees it as a container does. It is removed once the host is gone.
    """
    made: list[Path] = []

    def limit(node: Node, controller: str, v1: dict[str, str], v2: dict[str, str]) -> None:
        old = Path("/sys/fs/cgroup", controller)
        root, files = (old, v1) if old.is_dir() else (Path("/sys/fs/cgroup"), v2)
        for left in root.glob("zerofleet-test-*"):
            if not (left / "cgroup.procs").read_text():  # of tests that were killed
                left.rmdir()
        group = root / f"zerofleet-test-{node.pid}"
        try:
            group.mkdir()
            made.append(group)
            for name, value in files.items():
                (group / name).write_text(value)
            for pid in node.commands():
                (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            pytest.skip(f"needs root over the control group {controller} ({error})")
        kind = ["cgroup", "-o", controller] if root == old else ["cgroup2"]
        mounted = str(Path("/sys/fs/cgroup") / root.relative_to("/sys/fs/cgroup"))
        node.run(["mount", "-t", "tmpfs", "groups", "/sys/fs/cgroup"])
        node.run(["mkdir", "-p", mounted])
        node.run(["mount", "-t", *kind, "groups", mounted])

    yield limit
    hosts.cluster.mended()
    for group in made:
        group.rmdir()


def test_control_groups_that_leave_little(hosts: Hosts, limited: Limit) -> None:
    few = str(256 << 20)
    limited(hosts["node3"], "memory", {"memory.limit_in_bytes": few}, {"memory.max": few})
    v1 = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "20000"}
    limited(hosts["node4"], "cpu", v1, {"cpu.max": "20000 100000"})
    said = hosts.preflight()
    assert "left of the cgroup's 268.4 MB" in said.line("node3", "memory", ("node4", "cpu cores"))
    assert "raise its CPU quota" in said.line("node4", "cpu cores", ("node3", "memory"))

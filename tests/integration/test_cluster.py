"""The test bed itself: its hosts are separate machines, and nothing of it outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import cluster as bed

pytestmark = pytest.mark.skipif(bool(bed.missing()), reason=bed.missing() or "none")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bed.Cluster]:
    cluster = bed.start(tmp_path_factory.mktemp("cluster") / "two hosts", 2)
    yield cluster
    cluster.close()


def ssh(cluster: bed.Cluster, node: str, command: str) -> str:
    argv = ["ssh", "-F", str(cluster.ssh_config), node, command]
    return cluster.run(argv)


def test_hosts_are_machines_of_their_own(two: bed.Cluster) -> None:
    ask = "hostname; cat /etc/machine-id; readlink /proc/self/ns/net /proc/self/ns/pid; echo $HOME"
    first, second = (ssh(two, node.name, ask).splitlines() for node in two.nodes)
    assert (first[0], second[0]) == ("node1", "node2")
    assert not set(first[:4]) & set(second[:4])
    assert first[4] == second[4] == two.home
    ssh(two, "node1", "echo written >/etc/canary; echo written >~/canary")
    assert not two.nodes[1].path("/etc/canary").exists()
    assert not two.nodes[1].path("~/canary").exists()
    assert not Path("/etc/canary").exists()


def test_a_host_keeps_its_disk_through_a_power_cut_and_loses_it_by_a_reset(
    two: bed.Cluster,
) -> None:
    node = two.nodes[1]
    key = (two.folder / "known_hosts").read_text()
    ssh(two, "node2", "echo written >/etc/kept; echo written >~/kept")
    node.off()
    node.start()
    assert ssh(two, "node2", "cat /etc/kept ~/kept") == "written\nwritten\n"
    two.mended()
    assert not node.path("/etc/kept").exists()
    assert not node.path("~/kept").exists()
    assert (two.folder / "known_hosts").read_text() == key
    assert ssh(two, "node2", "hostname") == "node2\n"


def test_two_clusters_live_side_by_side(two: bed.Cluster, tmp_path: Path) -> None:
    other = bed.start(tmp_path / "other", 1)
    try:
        assert ssh(other, "node1", "cat /etc/machine-id") != ssh(
            two, "node1", "cat /etc/machine-id"
        )
    finally:
        other.close()
    assert ssh(two, "node1", "hostname") == "node1\n"


def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.integration.cluster import cluster;"
        "c = cluster.start(Path(sys.argv[1]), 1); print(c.keeper, c.nodes[0].pid, flush=True);"
        "time.sleep(600)"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "orphan")]
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2
    assert all(bed.started(pid) for pid in pids)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    while any(bed.started(pid) for pid in pids):  # bounded by the test's own timeout
        time.sleep(0.02)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()

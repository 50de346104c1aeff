"""Hosts that share one home: one environment for all; or, by a link, one on each host's disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kill.stage import Stage, make_stage

#: On each host's own disk, and made by none of them before.
DISK = "/srv/fast/zerofleet"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Stage]:
    """Two hosts with one home."""
    folder = tmp_path_factory.mktemp("shared")
    made = make_stage(folder, cache=cache / "xdg", shared_home=True)
    yield made
    made.cluster.close()


def test_a_shared_home_gets_one_environment_and_a_link_gives_each_host_its_own(
    stage: Stage,
) -> None:
    first, second = stage.cluster.nodes
    stage.choose(0)
    hosts = stage.deploy()["hosts"]
    assert [host["bytes_sent"] > 0 for host in hosts.values()] == [True, False]
    assert stage.invoke("undeploy")[0] == 0
    home = f"{stage.cluster.home}/.zerofleet"
    assert not first.path(home).exists()

    first.run(["ln", "-s", DISK, home])
    hosts = stage.deploy()["hosts"]
    assert [host["bytes_sent"] > 0 for host in hosts.values()] == [True, True]
    python = f"{home}/current/bin/python"
    for node in (first, second):
        assert node.run([python, "-c", "import one, sys; print(sys.prefix)"]).startswith(home)
    first.run(["rm", "-r", DISK])  # it is the other's no longer
    assert second.path(f"{DISK}/current/complete.json").is_file()
    hosts = stage.deploy()["hosts"]
    assert [host["changed"] for host in hosts.values()] == [True, False]

    assert stage.invoke("undeploy")[0] == 0
    assert not [node for node in (first, second) if node.path(DISK).exists()]
    assert second.run(["readlink", home]) == f"{DISK}\n"

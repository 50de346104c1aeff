"""Deploys onto hosts that lack venv and pip, room, programs that run, or bytes of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.cluster.cluster import Node
    from tests.integration.kill.stage import Stage

#: As Debian has it without python3-venv and python3-pip: what makes environments is not there.
WITHOUT_VENV = """\
import importlib.util, os, shutil
for name in ("venv", "ensurepip", "pip", "virtualenv"):
    found = importlib.util.find_spec(name)
    if found is not None:
        shutil.rmtree(os.path.dirname(found.origin))
"""


@pytest.fixture(autouse=True)
def bare(stage: Stage) -> None:
    """Hosts as they were when new."""
    stage.cluster.mended()
    for node in stage.cluster.nodes:
        node.run(["rm", "-rf", f"{stage.cluster.home}/.zerofleet"])


def flip(path: Path) -> None:
    """One bit of a file, as a disk loses it: the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stored(node: Node, name: str) -> Path:
    """A file in a host's store."""
    (path,) = node.path("~/.zerofleet/store").glob(f"*/{name}-*.whl")
    return path


def test_a_host_without_venv_and_pip(stage: Stage) -> None:
    node = stage.cluster.nodes[0]
    for python in node.run(["sh", "-c", "which -a python3 python3.11"]).split():
        node.run([python, "-"], given=WITHOUT_VENV)
    assert "pip: no" in node.run(["sh", "-c", "python3 -m pip --version || echo pip: no"])
    code, answer, _ = stage.invoke("deploy", "--env-source", "index")
    (lacking,) = [f for f in answer["findings"] if f["host"] == "node1" and f["level"] == "error"]
    assert (code, lacking["subject"]) == (1, "python.venv")
    assert lacking["remedy"].endswith("or deploy with --env-source wheelhouse")

    stage.choose(0)
    hosts = stage.deploy()["hosts"]
    assert [host["changed"] for host in hosts.values()] == [True, True]
    python = f"{stage.cluster.home}/.zerofleet/current/bin/python"
    assert node.run([python, "-c", "import one, torch; print(torch.__version__)"]) == "2.13.0+cpu\n"


def test_hosts_without_room_and_without_programs_that_run_are_named_before_a_byte(
    stage: Stage,
) -> None:
    root = f"{stage.cluster.home}/.zerofleet"
    for node, options in zip(stage.cluster.nodes, ("noexec,size=2g", "size=900m"), strict=True):
        node.run(["mkdir", root])
        node.run(["mount", "-t", "tmpfs", "-o", options, "small", root])
    code, answer, said = stage.invoke("deploy")
    found = {f["host"]: f for f in answer["findings"] if f["level"] == "error"}
    assert code == 1, said
    assert sorted(found) == ["node1", "node2"]
    assert found["node1"]["found"].endswith("is mounted noexec")
    assert found["node2"]["found"].startswith("943.7 MB free on ")
    assert found["node2"]["expected"] == "1.1 GB for the environment"
    for node in stage.cluster.nodes:
        assert "a link from ~/.zerofleet" in found[node.name]["remedy"]
        assert not list(node.path("~/.zerofleet").iterdir())


def test_a_file_that_rotted_in_a_store_is_pushed_again(stage: Stage) -> None:
    first, second = stage.cluster.nodes
    stage.choose(0)
    stage.deploy()
    flip(stored(first, "big"))
    stage.choose(1)
    code, answer, said = stage.invoke("deploy")
    assert code == 0, said
    assert "files had rotted in the store of node1: they are sent again" in said
    assert (
        answer["hosts"]["node1"]["bytes_sent"] > 6_000_000 > answer["hosts"]["node2"]["bytes_sent"]
    )

    # One that is in use nowhere any more is found when it is to be passed on to another host.
    flip(stored(first, "big"))
    second.run(["rm", "-rf", f"{stage.cluster.home}/.zerofleet"])
    code, answer, said = stage.invoke("deploy")
    assert code == 0, said
    assert "[node1] big-1.0-py3-none-any.whl had rotted on this disk: removed, and sent" in said
    contents = {stored(node, "big").read_bytes() for node in (first, second)}
    assert {hashlib.sha256(each).hexdigest() for each in contents} == {
        stored(first, "big").parent.name
    }

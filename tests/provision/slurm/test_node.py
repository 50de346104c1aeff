"""A node through srun: what srun is told, and what it says when no step comes of it.

Slurm's words are recorded from 22.05. That steps do what connections do is for the integration
tests; here a stand-in for srun runs what it is given on this machine.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from provision.errors import HostError
from provision.slurm.allocation import Allocation
from provision.slurm.node import Node, NodeError, nodes_of, parse_errors
from provision.slurm.nodes import SlurmNode
from provision.steps import Put

LOST = """\
srun: error: Node failure on node2
srun: Job step aborted: Waiting up to 5 seconds for job step to finish.
srun: error: node2: task 0: Killed
"""
CANCELLED = """\
slurmstepd: error: *** STEP 3.7 ON node2 CANCELLED AT 2026-11-21T22:00:31 ***
srun: error: node2: task 0: Terminated
"""
OVER = "srun: error: Unable to confirm allocation for job 99: Invalid job id specified\n"
FAILED = "uv: no space left\nsrun: error: node2: task 0: Exited with exit code 1\n"
#: Leaves out srun's options; answers as srun does where the command fails.
SRUN = """\
#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
"$@" || { code=$?; echo "srun: error: node2: task 0: Exited with exit code $code" >&2; exit $code; }
"""


def allocation(environ: dict[str, str] | None = None) -> Allocation:
    nodes = tuple(
        SlurmNode(name=f"node{n}", address=f"10.0.0.{n}", state="idle", cpus=1, memory=1, gpus=0)
        for n in (1, 2)
    )
    return Allocation(job="7", nodes=nodes, environ=environ or {})


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """node2, with the stand-in on PATH and a home of its own."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    return Node(label="node2", allocation=allocation(environ))


@pytest.mark.parametrize(
    ("said", "words"),
    [(LOST, "Node failure on node2"), (CANCELLED, "STEP 3.7 ON node2 CANCELLED"),
     (OVER, "Unable to confirm allocation for job 99")],
)  # fmt: skip
def test_a_step_that_slurm_ends_is_the_node_s_failure_in_slurm_s_words(
    said: str, words: str
) -> None:
    _, error = parse_errors("node2", said)
    assert error is not None
    assert str(error).startswith("node2: srun: found")
    assert words in error.found
    assert error.exit_code == 3


def test_a_command_that_fails_keeps_its_own_words() -> None:
    assert parse_errors("node2", FAILED) == ("uv: no space left", None)


def test_an_allocation_s_nodes_are_hosts_at_their_addresses() -> None:
    inventory, reached = nodes_of(allocation())
    assert inventory.labels == ("node1", "node2")
    assert reached["node2"].address == "10.0.0.2"


def test_a_step_is_one_task_on_that_node_beside_what_the_job_does() -> None:
    argv = Node(label="node2", allocation=allocation()).argv(["echo", "a b"])
    assert argv[:3] == ("srun", "--jobid=7", "--nodelist=node2")
    assert {"--nodes=1", "--ntasks=1", "--overlap"} < set(argv)
    assert argv[-2:] == ("echo", "a b")


def test_commands_start_at_home_and_their_lines_are_heard_as_they_come(
    node: Node, tmp_path: Path
) -> None:
    heard: list[str] = []
    code, out, err = node.run(["sh", "-c", "pwd; echo two; echo no >&2; exit 7"], heard.append)
    assert (code, out, err) == (7, f"{tmp_path}/home\ntwo\n", "no")
    assert heard == [f"{tmp_path}/home", "two"]
    assert not node.channels


def test_a_command_that_says_nothing_for_too_long_is_ended(node: Node) -> None:
    with pytest.raises(NodeError, match="found no answer in 0 s"):
        node.run(["sleep", "600"], timeout=0.1)
    assert not node.channels


def test_closing_a_node_ends_its_conversations(node: Node) -> None:
    channel = node.talk("hold", ["take", "{}"]).channel
    node.close()
    assert channel.process.returncode is not None


def test_what_is_pushed_to_a_home_that_this_machine_sees_takes_no_step(
    node: Node, tmp_path: Path
) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 9\n")
    seen = replace(node, here=True)
    assert seen.gather_here("place", ["folders", "a/b"]) == {"targets": [f"{tmp_path}/home/a/b"]}
    talk = seen.talk("relay")
    talk.send({"do": "begin", "files": [], "serve": False, "cert": "", "key": "", "token": "",
               "address": "", "rate": 0.0})  # fmt: skip
    assert talk.receive(60)["held"] == []
    with pytest.raises(HostError):
        seen.ask("place", ["folders", "a/b"])
    seen.close()


def test_files_go_there_and_come_back(node: Node, tmp_path: Path) -> None:
    content = b"some\0bytes"
    put = Put(target="a/b", sha256=hashlib.sha256(content).hexdigest(), size=10, content=content)
    node.put([put], print)
    assert (tmp_path / "home" / "a" / "b").read_bytes() == content
    node.get("a/b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    with pytest.raises(HostError, match="No such file"):
        node.get("a/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()

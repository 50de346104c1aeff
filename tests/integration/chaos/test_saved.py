"""A stop that was asked for saves what was trained; the run goes on from that very step."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from provision.launch.nodes import RUNS
from tests.integration.chaos.test_resumed import WITHIN, Figure, losses, ranks, runs_of, until
from tests.integration.cluster.cluster import Node
from tests.integration.faults.conftest import Hosts, read_said

pytestmark = pytest.mark.timeout(1200)
STEPS = 60
#: ZeRO-2 over two hosts of the four; no checkpoint before the last step by itself.
TRAIN = (
    "train", "--include", "node1@node2", "--zero", "2", "--offload", "none",
    "--set", f"max_steps={STEPS}", "--set", "save_steps=1000", "--set", "seed=1",
)  # fmt: skip


def saved(node: Node, run: str) -> dict[str, object]:
    """How a node of the run ended."""
    return dict(json.loads(node.path(f"~/{RUNS}/{run}/exit.json").read_text()))


def training(train: subprocess.Popen[str], known: set[str], first: Node) -> str:
    """The id of the run that train has started, once it has made some steps."""

    def look() -> str:
        if train.poll() is not None:
            pytest.fail(f"train ended: {train.communicate()[1][-3000:]}")
        run = max(runs_of(first) - known, default="")
        return run if run and len(losses(first, run)) > 3 else ""

    return str(until(look))


@pytest.mark.parametrize("by", ["Ctrl-C", "invoke stop"])
def test_a_stopped_run_goes_on_from_the_step_it_was_stopped_at(
    hosts: Hosts, figure: Figure, by: str
) -> None:
    first, second = hosts["node1"], hosts["node2"]
    known = runs_of(first)
    train = hosts.start(*TRAIN)
    run = training(train, known, first)
    if by == "Ctrl-C":
        train.send_signal(signal.SIGINT)
    else:
        stop = read_said(hosts.start("stop", run), WITHIN)
        assert stop.code == 0, stop.stderr[-3000:]
    said = read_said(train, WITHIN)
    assert said.code == (130 if by == "Ctrl-C" else 0), said.stderr[-3000:]
    assert (said.answer["state"], said.answer["first_failure"]) == ("stopped", None)
    assert not ranks(first) + ranks(second)
    step = saved(first, run)["saved_step"]
    assert step == saved(second, run)["saved_step"] == max(losses(first, run))
    assert f"asked to pause: saved at step {step} of {STEPS}" in said.stderr

    again = read_said(hosts.start("resume", run), WITHIN)
    assert again.code == 0, again.stderr[-3000:]
    assert again.answer["resumed_step"] == step
    assert set(losses(first, again.answer["run"])) == set(range(int(str(step)) + 1, STEPS + 1))
    figure(0.0, f"{by}: stopped and resumed at step {step} of {STEPS}")

"""Carry out a node's part of a run on this very machine, and follow it to its end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from provision.errors import HostError
from provision.launch.failure import parse_outcome
from provision.launch.nodes import NodeLaunch
from provision.launch.plan import LaunchPlan
from provision.launch.progress import advance, begin_watch
from provision.launch.results import RunResult, read_optimizer
from provision.script import script_argv
from provision.steps import Plan, Put, Run

Say = Callable[[str], None]
_INTERRUPTED = (
    "stopping this node: Ctrl-C: ranks may save, and end (again: end them now)",
    "ending the ranks now (again: stop watching)",
)


def apply_steps_here(plan: Plan, home: Path) -> None:
    """A plan's files and commands, on this machine; HostError for a command that fails."""
    for phase in plan.phases:
        for step in phase.steps:
            if isinstance(step.do, Put):
                apply_put_here(step.do, home)
            else:
                apply_run_here(step.do, step.why)


def apply_put_here(put: Put, home: Path) -> None:
    """One file, with its mode from the first byte on."""
    target = home / put.target
    # Of a link, what it names: make_root of onhost/home.py.
    (home / ".zerofleet").resolve().mkdir(mode=0o700, parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=put.mode)
    partial.write_bytes(put.source.read_bytes() if put.source else put.content or b"")
    partial.replace(target)


def apply_run_here(do: Run, why: str) -> None:
    """One command."""
    done = subprocess.run(
        do.argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise HostError(
            f"this machine: {do}", found=said, expected="exit 0", remedy=f"this step was to {why}"
        )


def apply_node(launch: LaunchPlan, home: Path, say: Say) -> RunResult:
    """Start the one node of the plan here, show what it says, and wait for its end.

    Ctrl-C stops the node, gracefully; again: at once; a third time: leaves it stopping.
    """
    (node,) = launch.nodes
    try:
        apply_steps_here(launch.plan, home)
        follow = _apply_follow(node)
    except KeyboardInterrupt:
        if Path(node.run_dir).is_dir():  # its supervisor may be there already, and is a daemon
            say("stopping this node: Ctrl-C")
            apply_stop_here(node)
        raise
    watch, presses = begin_watch((node.host,), time.monotonic()), 0
    events = _events(follow)
    while True:
        try:
            event = next(events, None)
            if event is None:
                break
            turn = advance(watch, node.host, event, time.monotonic())
            watch = turn.watch
            for line in turn.lines:
                say(line)
        except KeyboardInterrupt:
            presses += 1
            if presses > 2:
                raise
            say(_INTERRUPTED[presses - 1])
            apply_stop_here(node, "stop" if presses == 1 else "kill")
            events = _events(follow)  # the interrupted one has ended
    follow.wait()
    outcome = parse_outcome(launch.run, watch.exits, lost=watch.lost, stopping=presses > 0)
    run_dir = Path(node.run_dir)
    return RunResult(
        outcome=outcome,
        interrupted=presses > 0,
        collected=run_dir,
        adapter=Path(node.output),
        optimizer=read_optimizer(run_dir / "metrics.jsonl"),
    )


def _apply_follow(node: NodeLaunch) -> subprocess.Popen[str]:
    """What tells of the node as it happens; Ctrl-C does not reach it."""
    return subprocess.Popen(
        script_argv("follow", [node.run_dir], sys.executable),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def apply_stop_here(node: NodeLaunch, how: str = "stop") -> None:
    """Ask the node's supervisor to stop; "kill": without waiting for a checkpoint."""
    apply_run_here(Run(argv=script_argv("supervise", [how, node.run_dir])), "stop the node")


def _events(follow: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert follow.stdout
    while line := follow.stdout.readline():
        yield json.loads(line)

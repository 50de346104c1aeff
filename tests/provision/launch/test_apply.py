"""Watching a run: a host that is gone keeps nobody from seeing what the others say, nor Ctrl-C."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from provision.launch import followers, progress
from provision.launch.apply import apply_start, apply_watch
from provision.launch.standby import Standby

RUN_DIRS = {"node1": "/r", "node2": "/r"}
LOST = {"kind": "lost", "host": "node2", "reason": "lost: node1 heard nothing of it for 5.0 s"}
ENDED = {"state": "failed", "first_failure": LOST, "stopped_by": None}


class Hosts:
    """A fleet of which each host says its lines; node2 has no power: whoever asks it waits."""

    def __init__(self, **says: Sequence[Mapping[str, Any]]) -> None:
        self.says, self.over, self.told = says, threading.Event(), threading.Event()
        self.asked: list[dict[str, str]] = []

    def fan_out(self, call: Callable[[Any], None], hosts: tuple[str, ...]) -> dict[str, None]:
        (host,) = hosts

        def run(_: Any, on_line: Callable[[str], None]) -> tuple[int, str, str]:
            for event in self.says.get(host, ()):
                on_line(json.dumps(event))
            if host not in self.says:
                self.over.wait(240)
            return 0, "", ""

        call(SimpleNamespace(run=run))
        return {host: None}

    def ask(self, _: str, args: Mapping[str, Sequence[str]]) -> dict[str, object]:
        self.asked.append({host: words[0] for host, words in args.items()})
        self.told.set()
        if "node2" in args:
            self.over.wait(240)
        return {}

    def disconnect(self, _: str) -> None:
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Hosts]]:
    monkeypatch.setattr(progress, "QUIET", 0.02)
    monkeypatch.setattr(followers, "LOOK", 0.0)
    monkeypatch.setattr("provision.launch.apply.LOOK", 0.01)
    monkeypatch.setattr("provision.launch.apply._PATIENCE", 120.0)
    made: list[Hosts] = []
    yield made
    for hosts in made:
        hosts.over.set()


def test_a_host_without_power_is_lost_by_the_word_of_the_others(quick: list[Hosts]) -> None:
    fleet: Any = Hosts(node1=[{"exit": ENDED}])
    quick.append(fleet)
    said: list[str] = []
    began = time.monotonic()
    watch, interrupted = apply_watch(fleet, RUN_DIRS, said.append)
    assert time.monotonic() - began < 120
    assert not interrupted
    assert fleet.told.wait(120)
    assert fleet.asked == [{"node2": "stop"}]  # that was tried, too
    assert list(watch.unreached) == list(watch.lost) == ["node2"]
    assert said[0] == "[node1] failed: node2: lost: node1 heard nothing of it for 5.0 s"
    assert said[1:] == [
        "stopping node2: node1 failed",
        "[node2] lost: no answer for 0 s here, and none at node1",
    ]


def test_ctrl_c_is_heard_while_a_host_without_power_is_asked(quick: list[Hosts]) -> None:
    fleet: Any = Hosts(node1=[{"log": "hello", "offset": 1}])
    quick.append(fleet)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            fleet.over.set()
        raise KeyboardInterrupt  # as soon as something is shown

    with pytest.raises(KeyboardInterrupt):
        apply_watch(fleet, RUN_DIRS, say)
    both = [dict.fromkeys(RUN_DIRS, how) for how in ("kill", "stop")]
    assert sorted(fleet.asked, key=str) == both
    assert said == [
        "[node1] hello",
        "stopping node1, node2: Ctrl-C: ranks may save, and end (again: end them now)",
        "ending the ranks now (again: stop watching)",
    ]


def test_ctrl_c_while_a_start_that_failed_is_undone_says_what_may_run() -> None:
    class Failing:
        def apply(self, *_: Any) -> None:
            raise KeyboardInterrupt

        def ask(self, *_: Any) -> None:
            raise KeyboardInterrupt

    fleet: Any = Failing()
    launch: Any = SimpleNamespace(run="r", run_dirs=RUN_DIRS, plan=None)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        apply_start(fleet, launch, Standby(), said.append)
    assert said[-1] == "it may still run where it was not told to stop: invoke stop r"

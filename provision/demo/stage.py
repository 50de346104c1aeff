"""One stage of the demo: a command run, timed and stopped as a user runs and stops it."""

from __future__ import annotations

import json as jsonlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision import errors

Say = Callable[[str], None]

#: How an interrupted command is asked to end, and the seconds it has to stop its work on hosts.
PATIENCE = ((signal.SIGINT, 30.0), (signal.SIGTERM, 5.0))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of the demo. ``answers``: one JSON object comes on its stdout."""

    name: str
    shown: str
    argv: tuple[str, ...]
    cwd: Path
    answers: bool = True


@dataclass(kw_only=True)
class Story:
    """What has happened so far: each stage's seconds and its JSON object."""

    seconds: dict[str, float] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)


class Failed(Exception):
    """A stage failed; its own message is on stderr already."""

    def __init__(self, stage: str, exit_code: int, why: str) -> None:
        self.stage = stage
        self.exit_code = exit_code
        self.why = why
        super().__init__(why)


def apply_stage(stage: Stage, story: Story, say: Say) -> None:
    """Run one command to its end; its stderr is ours, its JSON object goes into ``story``.

    Raises:
        Failed: it exited with anything but 0, or did not answer with one JSON object.
    """
    say(f"\n── {stage.shown}")
    started = time.monotonic()
    # Its own session: Ctrl-C reaches us, and we pass it on once. Of our own environment, settings
    # from elsewhere must not count: the demo's folder has them all.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("INVOKE_")}
    child: subprocess.Popen[str] | None = None
    try:
        with held_signals():
            child = subprocess.Popen(
                stage.argv, cwd=stage.cwd, env=environ, stdin=subprocess.DEVNULL, text=True,
                stdout=subprocess.PIPE if stage.answers else sys.stderr, start_new_session=True,
            )  # fmt: skip
        said = _read_output(child)
    except BaseException:
        if child:
            apply_interrupt(child)
        raise
    story.seconds[stage.name] = time.monotonic() - started
    if stage.answers:
        story.answers[stage.name] = parse_answer(stage.name, said, child.returncode)
    if child.returncode:
        raise Failed(stage.name, child.returncode, f"{stage.name} ended with {child.returncode}")
    say(f"── {stage.name}: {story.seconds[stage.name]:.1f} s")


def _read_output(child: subprocess.Popen[str]) -> str:
    """What a child says on stdout until it ends; "" where that is not ours to read.

    Awake every second: of a signal that comes when a system call is about to wait, Python knows
    once that call is over (https://docs.python.org/3/library/signal.html, "Execution of Python
    signal handlers"), which could be minutes later.
    """
    while True:
        try:
            return child.communicate(timeout=1.0)[0] or ""
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def held_signals() -> Iterator[None]:
    """Let a signal wait until the block's end: a child half started could be stopped by nobody.

    Handlers, as a blocked signal mask would be inherited by the child.
    """
    pending: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: pending.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if pending:
            signal.raise_signal(pending[0])


def apply_interrupt(child: subprocess.Popen[str]) -> None:
    """Ask a command to stop as Ctrl-C does, and see to it that it and its children have.

    A second Ctrl-C ends the waiting. The command is collected last: until then its process group
    can't be anyone else's.
    """
    if child.returncode is not None:
        return
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        for number, patience in PATIENCE:
            os.killpg(child.pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if os.waitid(os.P_PID, child.pid, flags):
                    return
                time.sleep(0.05)
    except KeyboardInterrupt:
        pass
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def parse_answer(stage: str, text: str, code: int) -> dict[str, Any]:
    """The one JSON object of a command's stdout.

    Raises:
        Failed: there is none.
    """
    try:
        answer = jsonlib.loads(text)
    except ValueError:
        why = f"{stage} ended with {code} and no JSON object, but: {text.strip()[-300:]!r}"
        raise Failed(stage, code or errors.FINDINGS, why) from None
    assert isinstance(answer, dict)
    return answer

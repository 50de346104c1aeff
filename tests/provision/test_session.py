"""What a step that failed on a host is told as."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from provision.errors import HostError
from provision.session import Remote
from provision.steps import Phase, Run, Step


@pytest.mark.parametrize(
    ("exited", "stderr", "said"),
    [
        (3, "one\nno room\n\n", "found no room, expected exit 0 (it exited 3): this step was to x"),
        (3, "", "found exit 3, expected exit 0 (it exited 3)"),
        (-1, "", "found no exit status: its connection ended, or a signal ended it there, expec"),
    ],
)
def test_a_step_that_failed_says_why_as_far_as_that_is_known(exited, stderr, said) -> None:
    result = SimpleNamespace(exited=exited, stdout="ZEROFLEET-SAY at work\n", stderr=stderr)
    remote = Remote(label="node1", cxn=SimpleNamespace(run=lambda *_, **__: result))
    step = Step(host="node1", do=Run(argv=("make",)), why="x")
    with pytest.raises(HostError) as failed:
        remote.apply(Phase(name="install", steps=(step,)), print)
    assert str(failed.value).startswith(f"node1: make: {said}")

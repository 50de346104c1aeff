"""Commands and calls that fail or never end."""

from __future__ import annotations

import threading

import pytest

from provision.onhost.probe_read import Failed, output, reason, side_by_side


def test_one_that_never_answers_hides_no_other():
    never = threading.Event()
    found = side_by_side({"dead": never.wait, "alive": lambda: 1}, 0.05)
    never.set()
    assert found["alive"] == 1
    assert reason(found["dead"]) == "no answer in 0 s"


def test_a_failed_command_says_all_that_it_said():
    with pytest.raises(Failed, match="sh: exit 3: one; two"):
        output(["/bin/sh", "-c", "echo one; echo two; exit 3"])
    with pytest.raises(Failed, match="sh: no answer in 0 s"):
        output(["/bin/sh", "-c", "exec cat /dev/zero > /dev/null"], timeout=0.05)

"""Commands that say something, nothing, or never end."""

from __future__ import annotations

import pytest

from provision.onhost.command import read_command


def test_what_a_command_says() -> None:
    assert read_command(["/bin/sh", "-c", "echo one; echo no >&2"], 5) == "one\n"


@pytest.mark.parametrize(
    ("argv", "seconds"),
    [
        (["/bin/sh", "-c", "echo one; exit 3"], 5),
        (["/no/such/command"], 5),
        (["/bin/sh", "-c", "exec cat /dev/zero >/dev/null"], 0.05),
    ],
)
def test_one_that_fails_says_nothing(argv: list[str], seconds: float) -> None:
    assert read_command(argv, seconds) is None

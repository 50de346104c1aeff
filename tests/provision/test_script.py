"""Scripts that travel inside the command: run for real, under the shells that hosts have."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
import sys

import pytest

from provision.errors import HostError
from provision.script import NO_PYTHON, parse_answer, read_onhost, script_argv, text_argv

ECHO = """
import json, sys
print("motd: welcome!")
print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps({"args": sys.argv[1:], "name": __name__}))
"""
AWKWARD = ["a b", "it's", "$HOME", "!x", 'say "hi"', "多", "", "back\\slash", "new\nline"]


def run(argv, shell="sh", **keywords):
    """Run argv as sshd does: one string, given to the login shell."""
    return subprocess.run(
        [shell, "-c", shlex.join(argv)], capture_output=True, text=True, check=False, **keywords
    )


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
def test_arguments_arrive_as_they_are(shell):
    if not shutil.which(shell):
        pytest.fail(f"{shell} is on every Linux this runs on")
    done = run(text_argv(ECHO, "echo.py", AWKWARD), shell)
    assert parse_answer("node1", done.stdout) == {"args": AWKWARD, "name": "__main__"}


def test_the_command_is_safe_for_csh_and_fish():
    command = shlex.join(script_argv("probe", AWKWARD))
    assert "!" not in command
    assert "\n" not in command
    assert "\\" not in command


def test_a_named_python_is_used():
    program = "import sys; print(sys.executable)"
    done = run(text_argv(program, "x.py", [], python=sys.executable))
    assert done.stdout.strip() == sys.executable


def test_a_host_without_python_says_so(tmp_path):
    done = run(script_argv("probe", []), shell="/bin/sh", env={"PATH": str(tmp_path)})
    # Even `sh` is not on this PATH: give it to the inner one.
    (tmp_path / "sh").symlink_to("/bin/sh")
    done = run(script_argv("probe", []), shell="/bin/sh", env={"PATH": str(tmp_path)})
    assert NO_PYTHON in done.stdout
    with pytest.raises(HostError, match=r"node1: python: found no Python 3\.8"):
        parse_answer("node1", done.stdout)


def test_noise_instead_of_an_answer_is_an_error_that_quotes_it():
    with pytest.raises(HostError, match="account is locked"):
        parse_answer("node1", "", "This account is locked.\n")


def test_a_program_too_long_for_one_command_line_is_refused():
    noise = random.Random(1).randbytes(100_000).hex()
    with pytest.raises(ValueError, match="exceed one command line"):
        text_argv(noise, "x.py", [])


@pytest.mark.parametrize(
    "name", ["probe", "ready", "place", "install", "prove", "supervise", "follow"]
)
def test_every_script_fits_in_one_command(name):
    assert len(shlex.join(script_argv(name, []))) < 32_000
    assert read_onhost(name)

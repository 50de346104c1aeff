"""Scripts that travel inside the command: run for real, under the shells that hosts have."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import provision.onhost
from provision.errors import HostError
from provision.script import (
    NO_PYTHON,
    parse_answer,
    passing_on,
    script_argv,
    text_argv,
)

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


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "fish", "tcsh"])
def test_arguments_arrive_as_they_are(shell):
    if not shutil.which(shell):
        pytest.fail(f"no {shell}: .ci/run installs it, and so does your package manager")
    for python in ("", sys.executable):
        done = run(text_argv(ECHO, "echo.py", AWKWARD, python), shell)
        assert parse_answer("node1", done.stdout) == {"args": AWKWARD, "name": "__main__"}, shell


def test_the_command_is_safe_for_csh_and_fish():
    command = shlex.join(script_argv("probe", AWKWARD))
    assert "!" not in command
    assert "\n" not in command
    assert "\\" not in command
    assert "`" not in command


def test_a_named_python_is_used():
    program = "import sys; print(sys.executable)"
    done = run(text_argv(program, "x.py", [], python=sys.executable))
    assert done.stdout.strip() == sys.executable


@pytest.fixture
def bare(tmp_path):
    """A PATH with sh and nothing else; HOME has nothing either."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    return {"PATH": str(tmp_path), "HOME": str(tmp_path)}


def add(bare, name, text):
    """A program on that PATH."""
    path = Path(bare["PATH"]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def without_python(bare):
    done = run(script_argv("probe", []), shell="/bin/sh", env=bare)
    assert NO_PYTHON in done.stdout
    with pytest.raises(HostError, match="node1: python") as told:
        parse_answer("node1", done.stdout, done.stderr)
    return told.value.found


def test_a_host_without_python_says_so(bare):
    assert "python3=" not in without_python(bare)


def test_one_whose_pythons_are_too_old_names_them(bare):
    add(bare, "python3", 'case "$2" in *version_info*) exit 86;; *) echo 3.6.8;; esac')
    add(bare, "python", "exit 127")  # a shim of a version manager, with nothing behind it
    assert "python3=3.6.8 python=" in without_python(bare)


def test_one_whose_python_is_not_on_path_says_where_it_is(bare):
    add(bare, "miniconda3/bin/python3", "exit 0")
    assert f"{bare['HOME']}/miniconda3/bin/python3" in without_python(bare)


def test_an_old_python3_does_not_hide_a_newer_one(bare):
    add(bare, "python3", "exit 86")
    add(bare, "python3.9", f'exec {sys.executable} "$@"')
    done = run(text_argv(ECHO, "echo.py", AWKWARD), "/bin/sh", env=bare)
    assert parse_answer("node1", done.stdout)["args"] == AWKWARD


def test_a_script_s_own_exit_status_is_kept(bare):
    add(bare, "python3", f'exec {sys.executable} "$@"')
    done = run(text_argv("raise SystemExit(3)", "x.py", []), "/bin/sh", env=bare)
    assert done.returncode == 3


def test_noise_instead_of_an_answer_is_an_error_that_quotes_it():
    with pytest.raises(HostError, match="account is locked"):
        parse_answer("node1", "", "This account is locked.\n")


def test_a_program_too_long_for_one_command_line_is_refused():
    noise = random.Random(1).randbytes(100_000).hex()
    with pytest.raises(ValueError, match="exceed one command line"):
        text_argv(noise, "x.py", [])


ONHOST = Path(provision.onhost.__file__).parent
SCRIPTS = sorted(p.stem for p in ONHOST.glob("*.py") if '"__main__"' in p.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_fits_in_one_command_and_leaves_half_of_it_for_arguments(name):
    assert len(shlex.join(script_argv(name, []))) < 64 * 1024


@pytest.mark.parametrize("inside", ["", "{", "[]", "5", "{'a': 1}", "\x1b[2J"])
def test_an_answer_that_is_no_object_is_an_error_of_its_host(inside):
    with pytest.raises(HostError, match="node1: answer"):
        parse_answer("node1", f"ZEROFLEET<<{inside}>>ZEROFLEET\n")


def test_what_a_script_says_is_passed_on_with_its_host_and_nothing_else_is():
    heard: list[str] = []
    on_line = passing_on("node1", heard.append)
    for line in ("ZEROFLEET-SAY 3 of 7 files", "Welcome", "ZEROFLEET-AT 7", "ZEROFLEET-SAY "):
        on_line(line)
    assert heard == ["[node1] 3 of 7 files", "[node1] "]

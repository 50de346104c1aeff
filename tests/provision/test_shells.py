"""Whatever a name, path or flag holds, no shell that it passes through takes it for a command.

Every string is given to real shells, as sshd gives a command to a login shell. Where a string was
executed, a file named CANARY appears.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.errors import ConfigError
from provision.launch.nodes import plan_nodes
from provision.launch.spec import RunHost, parse_run, with_training
from provision.script import parse_answer, text_argv
from provision.settings import make_settings
from provision.steps import Phase, Plan, Run, Step

ECHO = """
import json, sys
print("ZEROFLEET<<%s>>ZEROFLEET" % json.dumps({"args": sys.argv[1:]}))
"""
HOSTILE = [
    ";rm -rf ~", "; touch CANARY;", "$(touch CANARY)", "`touch CANARY`", "'; touch CANARY #",
    '"; touch CANARY #', "\\'; touch CANARY #", "| touch CANARY", "& touch CANARY &", "> CANARY",
    "\ntouch CANARY\n", "\rtouch CANARY\r", "!!", "!touch", "^a^b^", "~", "~root", "*", "?[a-z]",
    "{a,b}", "$HOME", "${IFS}", "$((1+1))", "%s%n", "-rf", "--", "\\", "\\\\'", "''", "#", "\t",
    "\x1b[2J", "\u202e", "é", "多", "(touch CANARY)", "<(touch CANARY)", "=(touch CANARY)", "",
]  # fmt: skip
SHELLS = ["sh", "bash", "dash", "fish", "tcsh"]
#: A string as an attacker or an accident makes it: these pieces, in any order, and anything else.
NASTY = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=4).map("".join)
FEW = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def without(strategy, characters):
    return strategy.map(lambda text: "".join(c for c in text if c not in characters))


def run(shell, command, folder):
    """Give a command to a shell as sshd does; nothing may have been executed that it holds."""
    done = subprocess.run(
        [shell, "-c", command], cwd=folder, capture_output=True, check=False, timeout=240,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert not list(folder.rglob("*CANARY*")), command
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture(params=SHELLS)
def shell(request):
    if not shutil.which(request.param):
        pytest.fail(f"no {request.param}: .ci/run installs it, and so does your package manager")
    return request.param


def test_the_canary_sings(empty):
    with pytest.raises(AssertionError):
        run("sh", "echo ; touch CANARY", empty)


@FEW
@given(args=st.lists(NASTY, min_size=1, max_size=40))
def test_arguments_of_a_script_arrive_as_they_are(shell, empty, args):
    out = run(shell, shlex.join(text_argv(ECHO, "echo.py", args)), empty)
    assert parse_answer("node1", out) == {"args": args}


@pytest.mark.parametrize("start", range(0, len(HOSTILE), 20))
def test_each_hostile_argument_arrives_as_it_is(shell, empty, start):
    args = HOSTILE[start : start + 20]
    out = run(shell, shlex.join(text_argv(ECHO, "echo.py", args)), empty)
    assert parse_answer("node1", out) == {"args": args}


NAMES = ["it's", "a b", "$HOME `id`", "a!b", "a!!b", "back\\slash", "x\\' (y", "end\\", "a\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_an_interpreter_below_an_odd_home_is_run_or_refused(shell, empty, name):
    run_or_refuse(shell, empty, name)


@FEW
@given(name=without(NASTY, "/\0").filter(lambda n: n not in ("", ".", "..") and len(n) < 60))
def test_an_interpreter_below_any_home_is_run_or_refused(shell, empty, name):
    run_or_refuse(shell, empty, name)


def run_or_refuse(shell, empty, name):
    home = empty / name
    try:
        argv = text_argv(ECHO, "echo.py", ["x"], f"{home}/python")
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017 - either way is right
        return
    if "CANARY" in name:  # the folder itself would be taken for the canary
        return
    home.mkdir()
    (home / "python").symlink_to(sys.executable)
    try:
        assert parse_answer("node1", run(shell, shlex.join(argv), empty)) == {"args": ["x"]}
    finally:
        shutil.rmtree(home)


def node_command(model, home, flag):
    """The command that a person pastes on a host, of a run with these values."""
    host = RunHost(name="node1", slots=1, home=home, nproc_per_node=1, socket_interface="eth0")
    base = parse_run(
        run="r1",
        hosts=[host],
        master_addr="10.0.0.1",
        output=f"~/{model}",
        python="~/python",
        accelerator="cpu",
    )
    spec = with_training(
        base,
        zero=2,
        offload="none",
        zero_configs=["zero2.json"],
        model=f"/{model}",
        data=f"~/{model},/b",
        recipe={"run_name": flag},
        overrides={},
    )
    return plan_nodes(spec)[0]


@FEW
@given(model=without(NASTY, "\0/,"), flag=without(NASTY, "\0"))
@pytest.mark.parametrize("posix", ["sh", "bash", "dash"])
def test_the_command_to_paste_runs_torchrun_and_nothing_else(posix, empty, model, flag):
    home = empty / "it's; a `home`"
    (home / ".zerofleet/runs/r1/code").mkdir(parents=True, exist_ok=True)
    python = home / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    python.chmod(0o755)
    node = node_command(model, str(home), flag)
    heard = run(posix, node.command, empty).removesuffix("\0").split("\0")
    assert tuple(heard) == node.argv[1:]


@FEW
@given(argv=st.lists(without(NASTY, "\0"), min_size=1), host=NASTY)
def test_a_plan_shows_an_argv_as_a_posix_shell_would_take_it(argv, host):
    step = Step(host=host, do=Run(argv=tuple(argv)), why="")
    assert shlex.split(step.action) == argv
    assert step.action in str(Plan(title="t", phases=(Phase(name="p", steps=(step,)),)))


CONTROL = [
    "\0",
    "\x1b[2J",
    "a\nb",
    "a\rb",
    "tab\t",
    "\x7f",
    "\x9b31m",
    "\u2028",
    "\u202e",
    "\udcff",
]


@pytest.mark.parametrize("key", ["hosts", "model", "data", "output", "master_addr", "wheels"])
@pytest.mark.parametrize("odd", CONTROL, ids=ascii)
def test_control_characters_in_settings_are_refused_in_one_line(key, odd):
    for config, flags in (({key: f"/a{odd}"}, {}), ({}, {key: f"/a{odd}"})):
        with pytest.raises(ConfigError) as caught:
            make_settings(config, flags, Path("/"))
        assert str(caught.value).isprintable()
        assert f"--{key.replace('_', '-')}" in str(caught.value)


def test_names_and_paths_of_any_script_are_kept():
    for text in ("/models/Qwen 3;rm -rf ~", "/données/多/عربي", "~/it's $HOME", "/👩\u200d💻"):
        assert make_settings({}, {"model": text}, Path("/")).model == text

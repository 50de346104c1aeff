"""provision/launch/module.py with its script, onhost/module.py: a module at work here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provision.errors import HostError
from provision.launch.code import Code, read_archive
from provision.launch.module import HERE, WORK, ModuleCall, Working, apply_result, conversation

MODULE = """
import json, os, sys
print("about to begin", file=sys.stderr)
print(json.dumps({"args": sys.argv[1:], "folder": os.getcwd()}), flush=True)
if sys.argv[1] == "fail":
    sys.exit("tool: no adapter there")
if sys.argv[1] == "echo":
    for line in sys.stdin:
        print(json.dumps({"heard": json.loads(line)["ask"]}), flush=True)
os.makedirs(sys.argv[1] + "/inner")
open(sys.argv[1] + "/inner/weights", "w").write("1 2 3")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME of the script."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def code(tmp_path: Path) -> Code:
    """The code of a module ``trainer.tool``."""
    (tmp_path / "tool.py").write_text(MODULE)
    (tmp_path / "init.py").touch()
    return read_archive(
        {"trainer/__init__.py": tmp_path / "init.py", "trainer/tool.py": tmp_path / "tool.py"}
    )


def make_call(arg: str, output: Path | None = None, python: str = sys.executable) -> ModuleCall:
    return ModuleCall(host=HERE, python=python, module="trainer.tool", args=(arg,), output=output)


@contextmanager
def started(call: ModuleCall, code: Code, lines: list[str]) -> Iterator[Working]:
    with conversation(call, code, None, lines.append) as working:
        working.apply_start()
        yield working


def test_what_it_finds_and_leaves_comes_here_and_nothing_stays_there(
    home: Path, code: Code
) -> None:
    said: list[str] = []
    call = make_call(f"{WORK}/result", home / "mine")
    with started(call, code, said) as working:
        first = working.read_said()
        assert first
        assert first["args"] == [f"{working.folder}/result"]
        assert working.read_said() is None
        apply_result(working, None)
    assert (home / "mine" / "inner" / "weights").read_text() == "1 2 3"
    assert "[here] about to begin" in said
    assert not (home / ".zerofleet" / "asked").exists()


def test_a_module_that_fails_is_told_in_its_own_words(home: Path, code: Code) -> None:
    with started(make_call("fail"), code, []) as working:
        working.read_said()
        with pytest.raises(HostError, match="here: tool: found no adapter there, expected exit 0"):
            working.read_said()


def test_questions_reach_it_and_the_end_of_the_conversation_ends_it(home: Path, code: Code) -> None:
    with started(make_call("echo"), code, []) as working:
        working.read_said()
        for question in ("one", "two\nlines"):
            working.apply_tell(ask=question)
            assert working.read_said() == {"heard": question}
    assert not (home / ".zerofleet" / "asked").exists()


def test_without_an_interpreter_there_the_line_says_so(home: Path, code: Code) -> None:
    with (
        pytest.raises(HostError, match=r"no interpreter .*/none: deploy an environment first"),
        conversation(make_call("x", python="~/none"), code, None, print),
    ):
        pass
    assert not (home / ".zerofleet" / "asked").exists()


def test_the_plan_names_who_runs_what_and_where_it_goes(code: Code) -> None:
    shown = str(make_call(f"{WORK}/result", Path("/mine")).plan(code))
    assert "-m trainer.tool WORK/result" in shown
    assert "bring the result to /mine" in shown

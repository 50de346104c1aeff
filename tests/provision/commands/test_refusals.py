"""What Invoke refuses by itself: one line with found, expected and remedy, and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.main import program

Refused = Callable[..., str]


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkout: Path
) -> Refused:
    """The line that a command line ends with; the same with --json, and as the object's."""

    def told(*words: str) -> str:
        for more in ([], ["--json"]):
            monkeypatch.setattr(
                sys, "argv", ["invoke", "--search-root", str(checkout), *words, *more]
            )
            with pytest.raises(SystemExit) as end:
                program.run()
            said = capsys.readouterr()
            assert end.value.code == 2
        answer = json.loads(said.out)
        assert (answer["ok"], answer["exit"]) == (False, 2)
        parts = "{what}: found {found}, expected {expected}: {remedy}".format(**answer["error"])
        assert said.err == f"error: {parts}\n"
        return parts

    return told


@pytest.mark.parametrize(("words", "line"), [
    ("hosts --host x", "invoke hosts: found unknown flag '--host', expected one of its flags: "
     "did you mean --hosts? invoke hosts --help shows what it takes"),
    ("tarin", "invoke: found unknown word 'tarin', expected a command: did you mean train? "
     "invoke --list shows all"),
    ("hosts rack1.txt", "invoke hosts: found unknown word 'rack1.txt', expected flags, or another "
     "command: invoke hosts --help shows what it takes; a value with spaces needs quotes"),
    ("train --model --data x", "--model: found no value, expected one after it: "
     "invoke train --help shows what it takes"),
    ("stop", "invoke stop: found no RUN, expected a run's id as `invoke runs` lists it, or enough "
     "of it to be unique, or last: write it behind the command; invoke stop --help shows what it "
     "takes"),
    ("-f none.yaml hosts", "configuration none.yaml: found no such file, expected a YAML file with "
     "a zerofleet: block: correct -f, or INVOKE_RUNTIME_CONFIG"),
])  # fmt: skip
def test_a_command_line_that_cannot_be(words: str, line: str, refused: Refused) -> None:
    assert refused(*words.split()) == line


def call(folder: Path, checkout: Path, *words: str, **environ: str) -> subprocess.CompletedProcess:
    """One command in a folder, as zf calls it."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("INVOKE_")} | environ
    if (folder / "invoke.yaml").exists():
        environ["INVOKE_RUNTIME_CONFIG"] = str(folder / "invoke.yaml")
    argv = [sys.executable, "-P", "-m", "invoke", "--search-root", str(checkout), *words]
    return subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True)


@pytest.mark.parametrize(("text", "what", "found"), [
    (b"zerofleet: [", "", "while parsing a flow node expected the node content"),
    (b"zerofleet:\n\twide: true", "", "found character '\\t' that cannot start any token"),
    (b"zerofleet: caf\xe9", "", "can't decode byte 0xe9"),
    (b"zerofleet:\n#  wide: true", ": zerofleet", "nothing"),
    (b"- wide", "", "['wide']"),
    (b"zerofleet:\n  set: [seed=1]", ": zerofleet.set", "['seed=1']"),
    (b"zerofleet:\n  model: {a: 1}", ": zerofleet.model", "{'a': 1}"),
])  # fmt: skip
def test_a_configuration_that_cannot_be_read(
    text: bytes, what: str, found: str, tmp_path: Path, checkout: Path
) -> None:
    (tmp_path / "invoke.yaml").write_bytes(text)
    done = call(tmp_path, checkout, "hosts", "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2
    assert error["what"] == f"{tmp_path / 'invoke.yaml'}{what}"
    assert found in error["found"]
    assert done.stderr.count("\n") == 1


def test_a_variable_that_is_no_such_value(tmp_path: Path, checkout: Path) -> None:
    done = call(tmp_path, checkout, "hosts", INVOKE_ZEROFLEET_WORKERS="many")
    assert done.returncode == 2
    assert done.stderr.startswith("error: INVOKE_ZEROFLEET_WORKERS: found invalid literal")


def test_whoever_reads_may_stop_reading(tmp_path: Path, checkout: Path) -> None:
    """As ``invoke train --help | head -1``: no word of broken pipes."""
    ends, output = os.pipe()
    os.close(ends)
    argv = [sys.executable, "-P", "-m", "invoke", "--search-root", str(checkout), "train", "--help"]
    done = subprocess.run(argv, cwd=tmp_path, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert done.stderr == b""


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    code = "from provision.commands.refusals import take_over; take_over(); 1 / 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr

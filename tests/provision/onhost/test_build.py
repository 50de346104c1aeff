"""onhost/build.py: unpack what was pushed, run it, and end it when nobody listens any more."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision.build.bundle import read_folder
from provision.script import parse_answer, read_onhost

SAY = "import sys; print('a line', file=sys.stderr); print('{\"ok\": true}')"
#: As a build does: a child in a session of its own, which Ctrl-C alone would not reach.
LONG = """
import pathlib, subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
try:
    print("started", child.pid, file=sys.stderr, flush=True)
    child.wait()
finally:
    child.kill()
    child.wait()
    pathlib.Path(__file__).with_name("tidied").touch()
"""
#: One that does not listen to Ctrl-C.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + LONG


@pytest.fixture
def start(tmp_path: Path):
    """Run build.py with HOME in tmp_path, its standard input a pipe that stays open."""
    running = []

    def begin(argv, unpack=(), grace=20):
        wanted = {"unpack": list(unpack), "argv": list(argv), "environ": {}}
        text = read_onhost("build").replace("GRACE = 20", f"GRACE = {grace}")
        process = subprocess.Popen(
            [sys.executable, "-c", text, json.dumps(wanted)],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.stdin.close()
        process.wait(240)
        process.stdout.close()
        process.stderr.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_its_lines_are_progress_and_its_object_is_the_answer(start):
    process = start([sys.executable, "-c", SAY])
    out, err = process.stdout.read(), process.stderr.read()
    assert "ZEROFLEET-SAY a line\n" in out
    assert parse_answer("node1", out, err) == {
        "code": 0, "answer": {"ok": True}, "last": "a line",
    }  # fmt: skip


def test_without_an_answer_the_last_line_says_why(start):
    process = start([sys.executable, "-c", "raise SystemExit('zf: no Python')"])
    reply = parse_answer("node1", process.stdout.read())
    assert reply == {"code": 1, "answer": None, "last": "zf: no Python"}


def test_what_was_pushed_is_unpacked_once(start, tmp_path: Path):
    tree = tmp_path / "code"
    tree.mkdir()
    (tree / "a.py").write_text("print('{}')")
    bundle = read_folder(tree)
    (tmp_path / bundle.name).write_bytes(bundle.content)
    unpack = [[bundle.name, bundle.sha256, ".zerofleet/controllers/x"]]
    argv = [sys.executable, str(tmp_path / ".zerofleet/controllers/x/code/a.py")]
    for _ in range(2):
        assert parse_answer("node1", start(argv, unpack).stdout.read())["code"] == 0
    assert [p.name for p in (tmp_path / ".zerofleet/controllers").iterdir()] == ["x"]


def test_an_archive_that_is_not_what_was_sent_is_refused(start, tmp_path: Path):
    (tmp_path / "a.tar.gz").write_bytes(b"other")
    process = start(["true"], [["a.tar.gz", "00" * 32, "code"]])
    assert "sha256 is" in process.stderr.read()
    assert not (tmp_path / "code").exists()


@pytest.mark.parametrize(("program", "grace"), [(LONG, 120), (DEAF, 0.2)], ids=["ends", "deaf"])
def test_when_the_connection_ends_the_build_and_its_compilers_end(
    start, tmp_path: Path, program, grace
):
    script = tmp_path / "build.py"
    script.write_text(program)
    process = start([sys.executable, str(script)], grace=grace)
    child = int(process.stdout.readline().split()[-1])
    assert alive(child)
    process.stdin.close()
    assert process.wait(240) == 0
    while alive(child):
        time.sleep(0.02)  # bounded by the test's own timeout
    assert (tmp_path / "tidied").exists() is (program == LONG)  # it was not simply killed

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from provision import process
from provision.process import Command, apply_command, apply_end_recorded


def sh(script: str, **environ: str) -> Command:
    return Command(argv=("/bin/sh", "-c", script), environ={"PATH": os.environ["PATH"], **environ})


def test_lines_log_and_status() -> None:
    log, lines = io.StringIO(), []
    script = 'printf "one\\ntwo\\rthree\\r\\n"; printf "$WORD" >&2; exit 3'
    assert apply_command(sh(script, WORD="mögen"), log=log, on_line=lines.append) == 3
    assert lines == ["one", "two", "three", "mögen"]
    assert log.getvalue() == "one\ntwo\nthree\nmögen\n"


def test_nothing_of_our_environment_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-march=native")
    lines: list[str] = []
    apply_command(sh("env"), log=io.StringIO(), on_line=lines.append)
    assert not [line for line in lines if line.startswith("CFLAGS")]


def test_signal_is_a_negative_status() -> None:
    assert apply_command(sh("kill -9 $$"), log=io.StringIO()) == -signal.SIGKILL


def test_idle_is_told(tmp_path: Path) -> None:
    seconds: list[float] = []

    def told(so_far: float) -> None:
        seconds.append(so_far)
        if len(seconds) == 2:
            (tmp_path / "enough").touch()

    script = "while [ ! -e enough ]; do sleep 0.01; done"
    command = replace(sh(script), cwd=tmp_path)
    apply_command(command, log=io.StringIO(), on_idle=told, idle_after=0.01)
    assert len(seconds) >= 2
    assert seconds == sorted(seconds)


def test_an_interrupt_ends_even_processes_in_groups_of_their_own(tmp_path: Path) -> None:
    # As ninja does: the compiler is in a process group of its own, and ignores a soft end.
    pid_file = tmp_path / "pid"
    script = f"""
    set -m
    (trap '' TERM; echo $(exec sh -c 'echo $PPID') > {pid_file}; while :; do sleep 60; done) &
    while [ ! -s {pid_file} ]; do :; done
    echo started
    wait
    """

    def interrupt(line: str) -> None:
        if line == "started":  # a shell without a terminal has something to say of set -m before
            raise KeyboardInterrupt

    grace, process.GRACE_S = process.GRACE_S, 0.2
    try:
        with pytest.raises(KeyboardInterrupt):
            apply_command(sh(script), log=io.StringIO(), on_line=interrupt)
    finally:
        process.GRACE_S = grace
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends while we look
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":  # ended; its new parent has yet to take note
                return
    assert not Path(f"/proc/{pid}").exists()


KILLED = """
import io, sys
from pathlib import Path
from provision.process import Command, apply_command
script = "trap '' TERM PIPE; echo started; exec sleep 60"
command = Command(argv=("/bin/sh", "-c", script), environ={})
apply_command(command, log=io.StringIO(), on_line=lambda line: print(line, flush=True),
              record=Path(sys.argv[1]))
"""


def test_what_a_killed_caller_left_running_is_ended(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, record], cwd=root, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout
        assert caller.stdout.readline() == "started\n"
        caller.kill()
    pid = json.loads(record.read_text())[0]
    assert f"/proc/{pid}" in [str(path) for path in Path("/proc").glob("[0-9]*")]
    grace, process.GRACE_S = process.GRACE_S, 0.1
    try:
        assert apply_end_recorded(record)
    finally:
        process.GRACE_S = grace
    assert not process._session_members(pid)
    assert not record.exists()


def test_a_record_of_another_process_ends_nobody(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert not apply_end_recorded(record)
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as other:
        pid, started, boot = process._identity(other.pid)
        for named in ([pid, started + "1", boot], [pid, started, "another boot"], "text", []):
            record.write_text(json.dumps(named))
            assert not apply_end_recorded(record)
        record.write_text("{")
        assert not apply_end_recorded(record)
        assert other.poll() is None
        other.kill()


def test_a_command_that_ended_leaves_no_record(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    seen: list[str] = []
    apply_command(
        sh("echo hello"),
        log=io.StringIO(),
        on_line=lambda _line: seen.append(record.read_text()),
        record=record,
    )
    assert json.loads(seen[0])
    assert not record.exists()

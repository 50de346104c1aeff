from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision.demo import stage as demo


def stage(program: str, *, answers: bool = True, cwd: Path = Path("/")) -> demo.Stage:
    argv = (sys.executable, "-c", program)
    return demo.Stage(name="deploy", shown="invoke deploy", argv=argv, cwd=cwd, answers=answers)


def test_an_answer_is_kept_and_timed() -> None:
    told, lines = demo.Story(), list[str]()
    demo.apply_stage(stage('print(\'{"ok": true, "exit": 0}\')'), told, lines.append)
    assert told.answers == {"deploy": {"ok": True, "exit": 0}}
    assert told.seconds["deploy"] > 0
    assert "invoke deploy" in lines[0]


def test_a_stage_has_the_folder_but_no_settings_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOKE_RUNTIME_CONFIG", "/elsewhere.yaml")
    program = (
        "import json, os; print(json.dumps("
        "{'cwd': os.getcwd(), 'ours': [k for k in os.environ if k.startswith('INVOKE_')]}))"
    )
    told = demo.Story()
    demo.apply_stage(stage(program, cwd=tmp_path), told, lambda _: None)
    assert told.answers["deploy"] == {"cwd": str(tmp_path), "ours": []}


def test_a_failed_stage_keeps_its_answer_and_its_exit_code() -> None:
    told = demo.Story()
    program = 'import sys; print(\'{"ok": false, "exit": 3}\'); sys.exit(3)'
    with pytest.raises(demo.Failed) as failed:
        demo.apply_stage(stage(program), told, lambda _: None)
    assert (failed.value.stage, failed.value.exit_code) == ("deploy", 3)
    assert told.answers["deploy"]["ok"] is False


def test_an_answer_that_is_no_json_fails_even_with_exit_0() -> None:
    with pytest.raises(demo.Failed, match="no JSON object, but: 'hello'") as failed:
        demo.apply_stage(stage("print('hello')"), demo.Story(), lambda _: None)
    assert failed.value.exit_code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_the_stage_and_its_children(tmp_path: Path, number: int) -> None:
    # A background job of sh ignores SIGINT, as stray children of a command may.
    shell = f"echo $$ > '{tmp_path}/a'; (echo $$; exec sleep 600) & echo $! > '{tmp_path}/b'; wait"
    program = f"""
import sys
from pathlib import Path
from provision.demo import stage, story
argv = ("sh", "-c", {shell!r})
it = stage.Stage(name="x", shown="x", argv=argv, cwd=Path("/"))
try:
    with story.interruptible():
        stage.apply_stage(it, stage.Story(), print)
except KeyboardInterrupt:
    sys.exit(130)
"""
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    files = [tmp_path / "a", tmp_path / "b"]
    while not all(f.exists() and f.read_text().strip() for f in files):
        time.sleep(0.01)
    pids = [int(f.read_text()) for f in files]
    run.send_signal(number)
    assert run.wait(240) == 130
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in pids):  # init collects the orphan
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)


def test_a_signal_waits_until_the_command_is_started() -> None:
    seen = []
    with pytest.raises(KeyboardInterrupt), demo.held_signals():
        seen += [signal.raise_signal(signal.SIGINT), "still inside"]
    assert seen == [None, "still inside"]

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.onhost import follow

CHECKOUT = Path(__file__).parents[3]


class Follower:
    """follow.py as a process, its lines read as they come."""

    def __init__(self, folder: Path, *options: str, code: str = "") -> None:
        program = ["-c", code] if code else ["-m", "provision.onhost.follow"]
        argv = [sys.executable, *program, str(folder), *options]
        self.process = subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)

    def next(self, key: str) -> Any:
        """The value of the next event of a kind; heartbeats and others are passed over."""
        assert self.process.stdout
        for line in self.process.stdout:
            event = json.loads(line)
            if key in event:
                return event[key]
        raise AssertionError(f"ended without {key}")

    def rest(self) -> list[dict[str, Any]]:
        """All events until the end, heartbeats left out."""
        assert self.process.stdout
        events = [json.loads(line) for line in self.process.stdout]
        return [event for event in events if "alive" not in event]


@pytest.fixture
def followers() -> Iterator[list[Follower]]:
    made: list[Follower] = []
    yield made
    for follower in made:
        follower.process.kill()
        follower.process.wait()
        assert follower.process.stdout
        follower.process.stdout.close()


def test_a_whole_run_from_before_its_first_line(node: Any, followers: list[Follower]) -> None:
    followers.append(f := Follower(node.folder))
    assert f.next("alive") == pytest.approx(time.time(), abs=120)
    (node.folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    node.start("ok")
    events = f.rest()
    assert f.process.wait(60) == 0
    assert any(e.get("metric") == {"step": 1, "loss": 2.0} for e in events)
    assert any(str(e.get("log")).startswith("environ ") for e in events)
    assert events[-1] == {"exit": node.exit()}


def test_lines_come_while_the_run_goes_on_and_only_when_complete(
    node: Any, followers: list[Follower]
) -> None:
    node.start("hang")
    followers.append(f := Follower(node.folder))
    f.next("log")
    with (node.folder / "node.log").open("ab") as log:
        log.write(b"half")
        log.flush()
        with (node.folder / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 7}\n')
        assert f.next("metric") == {"step": 7}  # half a line was not said before it
        log.write(b" and whole\nlast, no newline \xc3")
        log.flush()
        assert f.next("log") == "half and whole"
    node.command("stop")
    events = f.rest()
    # Whole at the run's end; torchrun may have said more in the same line, told to end.
    assert events[0]["log"].startswith("last, no newline \ufffd")
    assert events[-1]["exit"]["state"] == "stopped"


def test_goes_on_from_offsets(node: Any, followers: list[Follower]) -> None:
    node.start("ok")
    node.exit()
    (node.folder / "node.log").write_text("one\ntwo ü\nthree\n")
    (node.folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    followers.append(all_of_it := Follower(node.folder))
    events = all_of_it.rest()
    assert [e["log"] for e in events if "log" in e] == ["one", "two ü", "three"]
    after = {"log": events[1]["offset"], "metric": events[3]["offset"]}
    followers.append(f := Follower(node.folder, "--from-offsets", json.dumps(after)))
    assert [e for e in f.rest() if "exit" not in e] == [
        {"log": "three", "offset": 17},
        {"metric": {"step": 2}, "offset": 24},
    ]


def test_a_dead_supervisor_is_lost(node: Any, followers: list[Follower]) -> None:
    node.start("hang")
    pid = node.record()["supervisor"]["pid"]
    followers.append(f := Follower(node.folder))
    f.next("log")
    node.kill("supervisor")
    assert f.next("lost") == f"the supervisor (pid {pid}) died before the run ended"
    assert f.process.wait(60) == 1


def test_another_boot_is_lost(node: Any, followers: list[Follower]) -> None:
    record = {"boot_id": "another", "supervisor": {"pid": 1, "start_time": 1}}
    (node.folder / "record.json").write_text(json.dumps(record))
    followers.append(f := Follower(node.folder))
    assert f.next("lost") == "the host was restarted during the run"


def test_a_folder_that_is_not_there_is_lost(node: Any, followers: list[Follower]) -> None:
    followers.append(f := Follower(node.folder / "nope"))
    assert f.next("lost").startswith("no such run folder: ")
    assert f.process.wait(60) == 1


def test_ends_at_once_when_nobody_reads(node: Any, followers: list[Follower]) -> None:
    """Not merely at the next heartbeat: here that would not come."""
    node.start("hang")
    code = "import sys; from provision.onhost import follow; follow.ALIVE = 9e9; "
    followers.append(f := Follower(node.folder, code=f"{code}sys.exit(follow.main(sys.argv[1:]))"))
    f.next("log")
    assert f.process.stdout
    f.process.stdout.close()
    assert f.process.wait(60) == 0


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (follow.LONGEST + 10))
    tail = follow.Tail(str(tmp_path / "log"), 0)
    assert [len(line) for line, _ in tail.read(final=False)] == [follow.LONGEST]
    assert [len(line) for line, _ in tail.read(final=True)] == [10]


def test_a_log_longer_than_one_read_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "CHUNK", 8)
    (tmp_path / "log").write_text("aaa\nbbb\nccc\nddd\nee")
    tail = follow.Tail(str(tmp_path / "log"), 0)
    assert [line for line, _ in tail.read(final=True)] == ["aaa", "bbb", "ccc", "ddd", "ee"]


@pytest.mark.parametrize(
    ("text", "count", "rest"),
    [
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\nb\n", 9, "a\nb\n"),
        ("a\nb\n", 0, ""),
        ("a\n\n\n", 1, "\n"),
        ("", 3, ""),
        (f"a\n{'x' * 200_000}\nb\n", 2, f"{'x' * 200_000}\nb\n"),
    ],
)
def test_where_the_last_lines_begin(tmp_path: Path, text: str, count: int, rest: str) -> None:
    (log := tmp_path / "log").write_text(text)
    assert text[follow.last_lines(str(log), count) :] == rest
    assert follow.last_lines(str(tmp_path / "none"), count) == 0


def test_the_last_lines_of_a_run_that_goes_on_and_no_more(
    node: Any, followers: list[Follower]
) -> None:
    node.start("hang")
    with (node.folder / "node.log").open("a") as log:
        log.write("one\ntwo\nhalf")
    followers.append(f := Follower(node.folder, "--once", "--tail", "2"))
    assert [e["log"] for e in f.rest()] == ["two", "half"]
    assert f.process.wait(60) == 0
    node.command("stop")


def test_the_last_whole_line_of_each_ranks_pace(tmp_path: Path) -> None:
    folder = tmp_path / "a [run]" / "pace"
    folder.mkdir(parents=True)
    (folder / "rank0.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    (folder / "rank1.jsonl").write_text('{"st')
    (folder / "rank2.jsonl").write_text("x" * 9000 + '\n{"step": 3}\n')
    (folder / "rank3.jsonl").write_text("[1]\nnonsense\n")
    assert follow.read_pace(str(folder.parent)) == [{"step": 2}, {"step": 3}]
    assert follow.read_pace(str(tmp_path)) == []

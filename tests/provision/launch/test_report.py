"""A run's report: what it shows, from files as hosts leave them, and that it obeys none of them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from provision.errors import ConfigError
from provision.launch.record import apply_kept, read_kept, read_metrics, read_run_folder
from provision.launch.report import apply_report

EVIL = "<script>alert(1)</script>\"'&"
PLAN = {
    "run": "r1",
    "node_rank": 0,
    "nproc_per_node": 1,
    "argv": ["python", "--note", EVIL],
    "environ": {"A": EVIL},
    "peers": {"secret": "canary"},
}
EXIT = {
    "run": "r1",
    "node_rank": 0,
    "state": "failed",
    "exit": 1,
    "started_at": 100.0,
    "ended_at": 160.0,
    "ranks": [{"local_rank": 0, "rank": 0, "state": "failed", "exit": 1}],
    "first_failure": {
        "rank": 0, "local_rank": 0, "at": 150.0, "reason": f"ValueError: {EVIL}",
        "lines": [EVIL], "symptom": False,
    },
    "jit_compiled": [],
    "loss": [2.5, 1.5],
    "left": [],
}  # fmt: skip
METRICS = [
    {"event": "begin", "at": 100.0, "first_step": 0, "zero_stage": 2, "optimizer": EVIL},
    {"event": "step", "at": 110.0, "step": 1, "loss": 2.5, "lr": 1e-4, "tokens": 1000},
    {"event": "step", "at": 115.0, "step": 2, "loss": None, "lr": 2e-4, "tokens": 2000},
    {"event": "step", "at": 120.0, "step": 3, "loss": 1.5, "lr": 1e-4, "tokens": 3000},
    {"event": "end", "at": 130.0, "ranks": [{"rank": 0, "peak_host_bytes": 2 * 10**9}]},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    host = tmp_path / "r1" / "hosts" / "node1"
    host.mkdir(parents=True)
    (host / "plan.json").write_text(json.dumps(PLAN))
    (host / "exit.json").write_text(json.dumps(EXIT))
    lines = [*map(json.dumps, METRICS), '{"event": "st']
    (host / "metrics.jsonl").write_text("\n".join(lines))
    (host / "pace").mkdir()
    for rank in range(2):
        pace = {"rank": rank, "step": 2, "forward_seconds": 0.5 + rank, "host_bytes": 3 * 10**9}
        (host / "pace" / f"rank{rank}.jsonl").write_text(json.dumps({**pace, "device_bytes": None}))
    return tmp_path / "r1"


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def seen(path: Path) -> Seen:
    parser = Seen()
    parser.feed(path.read_text())
    return parser


def test_what_it_shows(run: Path) -> None:
    apply_kept(run, {"facts": {"columns": ["hosts", "os"], "rows": [["node1", EVIL]]}})
    page = seen(apply_report(run))
    for words in (
        "failed · 1 hosts, 1 ranks · ZeRO-2",
        "60 s · loss 2.5 → 1.5",
        "node1: rank 0 (local_rank 0): ValueError:",
        "loss, last 1.5",
        "learning rate",
        "tokens a second, all ranks, last 200",
        "seconds a step, last 5 s",
        "forward pass of each rank, by step, rank 1 the highest, last 1.5 s",
        "host memory of each rank's process, rank 0 the highest, last 3 GB",
        "peak host memory",
        "node1: node_rank 0",
        "hosts",
    ):
        assert words in page.text, words


def test_text_of_hosts_is_text_and_nothing_is_loaded(run: Path) -> None:
    apply_kept(run, {"facts": {"columns": ["hosts"], "rows": [[EVIL]]}})
    path = apply_report(run)
    page = seen(path)
    assert "script" not in page.tags
    assert page.links == []
    assert page.text.count(EVIL) == 5  # the sixth is quoted, in the command
    assert "canary" not in path.read_text()


def test_a_host_that_sent_no_end_is_lost(run: Path) -> None:
    (run / "hosts" / "node1" / "exit.json").unlink()
    text = seen(apply_report(run)).text
    assert "lost" in text
    assert "no exit.json was brought" in text


def test_which_run(run: Path) -> None:
    runs = run.parent
    (runs / "r2" / "hosts").mkdir(parents=True)
    assert read_run_folder(runs, "last").name == "r2"
    assert read_run_folder(runs, "r1") == run
    with pytest.raises(ConfigError, match="run r: found r1, r2"):
        read_run_folder(runs, "r")
    with pytest.raises(ConfigError, match="run x: found none such"):
        read_run_folder(runs, "x")
    with pytest.raises(ConfigError, match=r"no hosts/\*/plan.json"):
        apply_report(runs / "r2")


def test_what_was_kept_before_stays(run: Path) -> None:
    apply_kept(run, {"facts": {"columns": ["hosts"], "rows": [["node1"]]}, "lost": {"node2": "?"}})
    apply_kept(run, {"lost": {}})
    assert read_kept(run) == {"facts": {"columns": ["hosts"], "rows": [["node1"]]}, "lost": {}}


def test_what_cannot_be_kept_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"runs/r: found Not a directory, .*--runs"):
        apply_kept(tmp_path / "runs" / "r", {})
    (tmp_path / "r" / "report.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"report\.json: found Is a directory, .*--runs"):
        apply_kept(tmp_path / "r", {})
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["report.json"]


def test_a_nodes_own_folder_is_shown_on_that_node(run: Path) -> None:
    own = run.parent / "own"
    (run / "hosts" / "node1").rename(own)
    (own / "plan.json").write_text(json.dumps({**PLAN, "nnodes": 3}))
    apply_kept(own, {"host": "gpu7"})
    text = seen(apply_report(own)).text
    for words in ("1 of 3 hosts", "gpu7: rank 0 (local_rank 0): ValueError:", "loss, last 1.5"):
        assert words in text, words
    assert read_run_folder(run.parent / "none", "own", run.parent) == own
    with pytest.raises(ConfigError, match="none such"):
        read_run_folder(run.parent / "none", "own")


def test_steps_of_a_script_that_are_no_numbers_are_left_out(run: Path) -> None:
    path = next(run.rglob("metrics.jsonl"))
    odd = [{"event": "step", "step": "one", "at": 1.0}, {"event": "step"}, {"event": "eval"}]
    odd += [{"event": "step", "step": 1, "at": 1.0, "loss": "low"}]
    before = read_metrics(path)
    with path.open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in odd)
    assert read_metrics(path) == before
    apply_report(run)

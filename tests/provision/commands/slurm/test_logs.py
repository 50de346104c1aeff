"""Lines of a Slurm run's logs, as files grow and attempts follow one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision.commands.slurm.logs import Logs
from provision.errors import ConfigError
from provision.launch.runs import KnownRun
from provision.settings import make_settings


def logs(run_dir: Path, **flags: Any) -> Logs:
    nodes = {
        f"node{rank + 1}": {"run_dir": str(run_dir), "first_rank": 2 * rank, "nproc_per_node": 2}
        for rank in range(2)
    }
    return Logs(run_dir, KnownRun(run="r", nodes=nodes), make_settings({}, flags, Path("/")))


def attempt(run_dir: Path, number: int, nodes: str, *texts: str) -> list[Path]:
    folder = run_dir / f"attempt-{number}"
    files = [folder / f"node{rank}" / "node.log" for rank in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (folder / "nodes").write_text(nodes)
    return files


def test_an_attempts_last_lines_are_read_when_the_next_one_has_begun(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("on node1 node2\n")
    found = logs(tmp_path)
    assert found.read_new(final=False) == {"job": ["on node1 node2"]}  # nothing has started
    first, _ = attempt(tmp_path, 0, "node1 node2", "[rank 0] a\n[rank 1] half", "[rank 2] b\n")
    assert found.read_new(final=False) == {
        "job": [],
        "node1": ["[rank 0] a"],
        "node2": ["[rank 2] b"],
    }
    with first.open("a") as file:
        file.write(" and the rest\n")
    attempt(tmp_path, 1, "node2 node3", "[rank 0] again\n", "[rank 2] no line's end")
    assert found.read_new(final=False) == {
        "job": [],
        "node1": ["[rank 1] half and the rest"],
        "node2": ["[rank 0] again"],
        "node3": [],
    }
    assert found.read_new(final=True)["node3"] == ["[rank 2] no line's end"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"host": "node2"}, {"node2": ["[rank 2] b", "[rank 3] c"]}),
        ({"rank": "3"}, {"node2": ["[rank 3] c"]}),
        ({"rank": "0"}, {"node1": ["[rank 0] a"]}),
    ],
)
def test_lines_of_one_node_or_rank(
    flags: dict[str, Any], expected: dict[str, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "job.log").write_text("on node1 node2\n")
    attempt(tmp_path, 0, "node1 node2", "[rank 0] a\ntorchrun\n", "[rank 2] b\n[rank 3] c\n")
    assert logs(tmp_path, **flags).read_new(final=False) == expected


def test_the_last_lines_of_each(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("1\n2\n")
    attempt(tmp_path, 0, "node1", "3\n4\n5\n")
    assert logs(tmp_path).read_new(final=False, tail=1) == {"job": ["2"], "node1": ["5"]}
    assert logs(tmp_path).read_new(final=False, tail=0) == {"job": [], "node1": []}


def test_a_node_or_rank_that_the_run_has_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--rank: found 4"):
        logs(tmp_path, rank="4")
    with pytest.raises(ConfigError, match="--host: found node9"):
        logs(tmp_path, host="node9")

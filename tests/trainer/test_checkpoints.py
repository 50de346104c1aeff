"""trainer/checkpoints.py: torn checkpoints are recognised, on one host and between hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer import checkpoints
from trainer.checkpoints import MANIFEST, check_folder, newest_whole, read_checkpoints, whole


def save(output: Path, step: int, ranks: tuple[int, ...] = (0, 1), name: str = "a") -> Path:
    folder = output / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    (folder / "latest").write_text("global_step")
    (folder / "global_step" / "shard.pt").write_bytes(b"x" * 1000)
    checkpoints.write_manifest(
        folder, step=step, save=name, world_size=2, ranks=ranks, zero_stage=2
    )
    return folder


def test_a_saved_checkpoint_is_complete(tmp_path: Path) -> None:
    manifest, problem = check_folder(save(tmp_path, 7), hashes=True)
    assert problem is None
    assert manifest == {
        "step": 7, "save": "a", "world_size": 2, "ranks": [0, 1], "zero_stage": 2
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tear", "said"),
    [
        (lambda f: (f / MANIFEST).unlink(), "no checkpoint.json: it was not saved to its end"),
        (lambda f: (f / MANIFEST).write_text("{"), "checkpoint.json can't be read"),
        (lambda f: (f / MANIFEST).write_text('{"step": 1}'), "checkpoint.json can't be read"),
        (lambda f: (f / "latest").unlink(), "latest is missing"),
        (
            lambda f: (f / "global_step" / "shard.pt").write_bytes(b"x" * 10),
            "global_step/shard.pt has 10 bytes of 1000",
        ),
    ],
)
def test_a_torn_checkpoint_is_not(tear: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    tear(folder)
    manifest, problem = check_folder(folder, hashes=False)
    assert manifest is None
    assert problem is not None
    assert problem.startswith(said)
    assert read_checkpoints(tmp_path) == {}


def test_other_bytes_of_the_same_size_are_found_by_their_hash(tmp_path: Path) -> None:
    folder = save(tmp_path, 7)
    (folder / "global_step" / "shard.pt").write_bytes(b"y" * 1000)
    assert check_folder(folder, hashes=False)[1] is None
    assert check_folder(folder, hashes=True) == (
        None,
        "global_step/shard.pt has other bytes than were saved",
    )


def test_hosts_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for step in (5, 10, 15):
        save(one, step, (0,))
    for step in (5, 10):
        save(other, step, (1,))
    save(other, 15, (1,), name="of another run")
    have = [read_checkpoints(one), read_checkpoints(other)]
    assert newest_whole(have) == 10
    assert newest_whole([have[0], {}]) is None
    assert whole(host[15] for host in have) == "the hosts hold different saves of it"
    assert whole([have[0][5], have[0][5]]) == "no host has the shards of rank 1"
    assert whole([have[0][5], None]) == "not every host has it"


def test_a_host_is_asked_by_its_python(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / "checkpoint-4").mkdir()
    script = Path(checkpoints.__file__).read_text()
    argv = [sys.executable, "-", str(tmp_path)]
    answer = subprocess.run(argv, input=script, capture_output=True, text=True, check=True).stdout
    found = json.loads(answer.split("ZEROFLEET<<")[1].split(">>ZEROFLEET")[0])
    assert list(found["checkpoints"]) == ["3"]

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provision.onhost.pausing import MOVES, PAUSING, SAVING, Pausing, step_seconds

LIMITS = {"grace": 10.0, "stalled": 100.0}
BEGIN = '{"event": "begin", "first_step": 10, "at": 100.0}\n'
STEPS = [f'{{"event": "step", "step": {n}, "loss": 1, "at": {at}}}\n' for n, at in ((12, 108.0),)]


def moved(*counts: int) -> object:
    """Bytes so far, at one look after another."""
    left = list(counts)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def first(tmp_path: Path) -> Pausing:
    """Node 0's, of a run whose steps take 4 s."""
    (tmp_path / "metrics.jsonl").write_text(BEGIN + "".join(STEPS))
    return pausing(tmp_path)


def pausing(folder: Path, node_rank: int = 0, **environ: str) -> Pausing:
    given = {"ZEROFLEET_PAUSE_FILE": str(folder / "pause"), **environ}
    return Pausing(str(folder), {"environ": given, "node_rank": node_rank}, LIMITS)


@pytest.mark.parametrize(
    ("metrics", "seconds"),
    [
        ("", 0.0),
        (BEGIN, 0.0),
        (BEGIN + STEPS[0], 4.0),
        ('{"event": "eval"}\nhalf a li\n[1]\n' + BEGIN + STEPS[0] + '{"event": "eval"}\n', 4.0),
        (STEPS[0] + STEPS[0], 0.0),
    ],
)
def test_how_long_steps_take(metrics: str, seconds: float) -> None:
    assert step_seconds(metrics) == seconds


def test_scripts_and_runs_that_have_not_begun_to_train_are_not_asked(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    assert not pausing(tmp_path, ZEROFLEET_PAUSE_FILE="").begin(0.0)
    (tmp_path / "metrics.jsonl").unlink()
    assert not pausing(tmp_path).begin(0.0)
    assert not (tmp_path / "pause").exists()


def test_the_step_has_the_grace_and_twice_its_time(first: Pausing, tmp_path: Path) -> None:
    assert first.begin(50.0)
    assert (tmp_path / "pause").read_text() == ""
    assert first.over(67.9, {}, moved(0)) == ""
    assert "took too long" in first.over(68.1, {}, moved(0))
    first.end()
    assert not (tmp_path / "pause").exists()  # no rank begins a save now


def test_an_evaluation_that_lives_is_waited_for(first: Pausing, tmp_path: Path) -> None:
    first.begin(0.0)
    for now in range(0, 200, 9):
        os.utime(tmp_path / "pause", (now, now))
        assert first.over(float(now), {}, moved(0)) == ""
    assert first.over(210.0, {}, moved(0))


def test_a_save_lasts_as_long_as_bytes_move_on_any_host(first: Pausing, tmp_path: Path) -> None:
    first.begin(0.0)
    (tmp_path / "pause").write_text("saving step 12\n")
    assert first.over(1.0, {}, moved(0)) == ""
    for second in range(2, 500):
        assert first.over(float(second), {}, moved(second * MOVES)) == ""
        assert first.state == SAVING
    for second in range(500, 1000):  # here nothing moves any more, on another host it does
        assert first.over(float(second), {1: SAVING}, moved(499 * MOVES)) == ""
    assert first.state == PAUSING
    assert first.over(1098.0, {1: PAUSING}, moved(499 * MOVES)) == ""
    assert first.over(1100.0, {1: PAUSING}, moved(499 * MOVES)) == "nothing moved while it saved"


def test_the_result_of_the_last_step_is_saved_as_long_as_bytes_move(
    first: Pausing, tmp_path: Path
) -> None:
    first.begin(0.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(
            '{"event": "step", "step": 20, "total_steps": 20, "at": 1}\n{"event": "saved"}\n'
        )
    for second in range(1, 300):
        assert first.over(float(second), {}, moved(second * MOVES)) == ""
    assert first.over(398.0, {}, moved(299 * MOVES)) == ""
    assert first.over(400.0, {}, moved(299 * MOVES)) == "nothing moved while it saved"


def test_saved_ranks_have_the_grace_to_end(first: Pausing, tmp_path: Path) -> None:
    first.begin(0.0)
    (tmp_path / "pause").write_text("saving step 12\n")
    first.over(1.0, {}, moved(0))
    assert first.saved_step is None
    (tmp_path / "pause").write_text("step 12\n")
    assert first.over(90.0, {}, moved(0)) == ""
    assert first.saved_step == 12
    assert first.over(101.5, {}, moved(0))
    first.end()
    assert first.saved_step == 12


def test_other_nodes_follow_node_0(tmp_path: Path) -> None:
    other = pausing(tmp_path, node_rank=1)
    assert other.begin(0.0)
    assert not (tmp_path / "pause").exists()
    assert other.over(9000.0, {0: "up", 2: PAUSING}, moved(0)) == ""
    assert other.over(9001.0, {0: "stopping"}, moved(0)) == "node_rank 0 stops"
    assert other.over(9002.0, {0: PAUSING, 2: "failed"}, moved(0)) == "node_rank 2 stops"
    assert other.over(9003.0, {0: "stopped"}, moved(0)) == ""
    assert other.over(9013.5, {0: "stopped"}, moved(0)) == "its ranks did not end"

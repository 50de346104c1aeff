"""trainer/pausing.py: rank 0 finds that it is asked, all ranks stop at one step; they go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl
from transformers.trainer_utils import SaveStrategy

from trainer.errors import RequestError
from trainer.pausing import Pause
from trainer.saving import LATEST, LATEST_IF_ANY, checkpoint_to_resume

ROOT = Path(__file__).parents[2]
#: Three steps of one rank of two, which is asked in the second. Prints where it stopped.
RANK = """
import os, sys, torch
from types import SimpleNamespace
from transformers import TrainerControl
from trainer.pausing import Pause
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
pause, control = Pause(store + ".pause"), TrainerControl()
args = SimpleNamespace(
    device=torch.device("cpu"), process_index=rank, local_process_index=rank)
for step in (1, 2, 3):
    if step == 2 and rank == 0:
        pause.file.touch()
    pause.on_step_end(args, SimpleNamespace(global_step=step, max_steps=9), control)
    if control.should_training_stop:
        break
print(pause.step, control.should_save, flush=True)
os._exit(0)  # as a rank ends (trainer/process.py)
"""


def of_rank(rank: int, local_rank: int | None = None) -> SimpleNamespace:
    local = rank if local_rank is None else local_rank
    device = torch.device("cpu")
    return SimpleNamespace(
        device=device, process_index=rank, local_process_index=local, save_strategy="steps"
    )


def step_end(pause: Pause, step: int, *, last: int = 9, rank: int = 0) -> TrainerControl:
    control = TrainerControl(should_evaluate=True)
    state = SimpleNamespace(global_step=step, max_steps=last)
    args = of_rank(rank)
    pause.on_step_end(args, state, control)
    return control


def test_who_asks_is_told_when_all_is_saved(tmp_path: Path) -> None:
    file = tmp_path / "pause"
    pause = Pause(str(file))
    assert not step_end(pause, 3).should_save
    file.touch()
    assert not step_end(pause, 4, rank=1).should_save  # alone, this one would wait for ever
    asked = step_end(pause, 4)
    assert asked.should_save
    assert asked.should_training_stop
    assert not asked.should_evaluate
    assert file.read_text() == "saving step 4\n"
    pause.conclude(of_rank(1))
    assert file.read_text() == "saving step 4\n"
    pause.conclude(of_rank(0))
    assert file.read_text() == "step 4\n"


def test_each_host_is_told_in_a_file_of_its_own(tmp_path: Path) -> None:
    pause = Pause(str(tmp_path / "pause"))
    pause.step = 7
    pause.conclude(of_rank(4, local_rank=0))
    assert (tmp_path / "pause").read_text() == "step 7\n"


def test_asked_in_an_evaluation_the_save_comes_after_it(tmp_path: Path) -> None:
    file, control = tmp_path / "pause", TrainerControl()
    pause, state = Pause(str(file)), SimpleNamespace(global_step=3, max_steps=9)
    pause.on_prediction_step(of_rank(0), state, control)
    assert not file.exists()  # nobody has asked
    file.touch()
    os.utime(file, (5, 5))
    pause.on_prediction_step(of_rank(1), state, control)
    assert file.stat().st_mtime == 5
    pause.on_prediction_step(of_rank(0), state, control)
    assert file.stat().st_mtime > 5
    pause.on_evaluate(of_rank(0), state, control)
    assert (pause.step, control.should_save, control.should_training_stop) == (3, True, True)


def test_where_the_metric_decides_what_is_saved_the_next_step_stops(tmp_path: Path) -> None:
    (tmp_path / "pause").touch()
    pause, args = Pause(str(tmp_path / "pause")), of_rank(0)
    args.save_strategy = SaveStrategy.BEST
    control = TrainerControl()
    pause.on_evaluate(args, SimpleNamespace(global_step=3, max_steps=9), control)
    assert not control.should_training_stop
    assert step_end(pause, 4).should_training_stop


def test_the_evaluation_of_the_result_is_no_pause(tmp_path: Path) -> None:
    pause, control = Pause(str(tmp_path)), TrainerControl()
    pause.on_evaluate(of_rank(0), SimpleNamespace(global_step=9, max_steps=9), control)
    assert not control.should_training_stop


def test_the_last_step_ends_the_run_as_ever(tmp_path: Path) -> None:
    pause = Pause(str(tmp_path))
    assert not step_end(pause, 9).should_training_stop
    assert pause.step is None


def test_a_run_without_such_a_file_is_spared_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.pausing._rank_0_says", lambda *_: pytest.fail("asked"))
    assert not step_end(Pause(None), 3).should_save


def test_all_ranks_stop_together(tmp_path: Path) -> None:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environ,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=500)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert said == ["2 True\n", "2 True\n"]


def test_from_the_start_where_there_is_none_only_if_that_was_asked(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()  # torn: a save that a lost node ended
    asked = {"output_dir": str(tmp_path), "local_process_index": 0}
    find = checkpoint_to_resume
    assert find(SimpleNamespace(resume_from_checkpoint=LATEST_IF_ANY, **asked)) is None
    with pytest.raises(RequestError, match=r"no checkpoint in .* is complete on all hosts"):
        find(SimpleNamespace(resume_from_checkpoint=LATEST, **asked))

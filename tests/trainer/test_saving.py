"""trainer/saving.py: what can't be gone on from is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.checkpoints import write_manifest
from trainer.errors import RequestError
from trainer.saving import checkpoint_to_resume


@pytest.mark.parametrize("state", ["optimizer.pt", "global_step4/zero_pp_rank_0_optim_states.pt"])
def test_weights_alone_are_nothing_to_go_on_from(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "checkpoint-4"
    (folder / state).parent.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    training: Any = SimpleNamespace(
        resume_from_checkpoint="latest", output_dir=str(tmp_path), deepspeed=None, world_size=1,
        process_index=0, local_process_index=0,
    )  # fmt: skip

    def save() -> None:
        write_manifest(folder, step=4, save="a", world_size=1, ranks=[0], zero_stage=0)

    save()
    with pytest.raises(RequestError, match=r"no optimizer's state there .*--save_only_model"):
        checkpoint_to_resume(training)
    (folder / state).write_text("moments")
    save()
    assert checkpoint_to_resume(training) == str(folder)

"""Saving on every host, and choosing the checkpoint to go on from, between all ranks of a run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_model
from transformers import TrainerCallback
from transformers.integrations.deepspeed import propagate_args_to_deepspeed
from transformers.trainer_utils import rotate_checkpoints

from trainer import engine, room
from trainer.args import SftArgs
from trainer.checkpoints import (
    LATEST_UNIVERSAL,
    check_folder,
    newest_whole,
    read_checkpoints,
    whole,
    write_manifest,
)
from trainer.errors import RequestError
from trainer.lean import Trainer

#: ``--resume_from_checkpoint`` with this: the last one that is complete on all hosts.
LATEST = "latest"
#: And with this: the same, or from the start where there is none. For jobs that a scheduler starts
#: again by itself, after whatever it was that ended them, with the same command.
LATEST_IF_ANY = "latest-if-any"
#: The world_size of a checkpoint that any number of ranks can go on from.
ANY_RANKS = 0
#: What a run leaves in its output folder.
RESULTS = ("checkpoint-*", "*.safetensors", "pytorch_model*.bin")


def of_all_ranks(mine: Any) -> list[Any]:
    """What every rank has, in rank order. Every rank has to call this."""
    if not dist.is_initialized():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def raise_together(problem: str | None) -> None:
    """End the run on all ranks with one message when it has a problem on any of them."""
    problems = [each for each in of_all_ranks(problem) if each]
    if problems:
        raise RequestError("; ".join(dict.fromkeys(problems)))


def spread_saving(trainer: Trainer, say: Callable[[str], None]) -> None:
    """Have each host save, unless they all write into one shared folder. Every rank calls this.

    transformers has a flag for it (save_on_each_node); which of the two it has to be is a fact.
    """
    training = trainer.args
    leader = training.local_process_index == 0
    folder = Path(training.output_dir)
    token = of_all_ranks(secrets.token_hex(4))[0]
    probe = folder / f".shared-{token}"
    problem = None
    try:
        if leader:
            folder.mkdir(parents=True, exist_ok=True)
        if training.process_index == 0:
            probe.touch()
    except OSError as error:
        problem = f"{os.uname().nodename}: --output_dir {folder}: {error.strerror}"
    raise_together(problem)
    sees = [seen for lead, seen in of_all_ranks((leader, probe.exists())) if lead]
    of_all_ranks(None)  # all have looked
    probe.unlink(missing_ok=True)
    if any(sees[1:]) and not all(sees):
        raise RequestError(f"--output_dir {folder} is shared by some hosts of the run, not by all")
    training.save_on_each_node = not all(sees)
    if training.deepspeed:  # DeepSpeed has to know, too, before its engine is made
        propagate_args_to_deepspeed(trainer.accelerator, training)
    if len(sees) > 1:
        say(f"checkpoints: {'one shared folder' if all(sees) else 'each host keeps its own part'}")


class CompleteOnEachHost(TrainerCallback):
    """After each save: what a host still lacks, and then the manifest that makes it complete."""

    def __init__(self, trainer: Trainer, write: Callable[..., None]) -> None:
        self.trainer = trainer
        self.write = write

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Runs on every rank, after all of its own files were written."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        problem = None
        leads = args.local_process_index == 0
        ranks = of_all_ranks((leads, secrets.token_hex(8)))  # and thus all ranks have saved
        writes = args.process_index == 0 or (leads and args.save_on_each_node)
        try:
            if writes:
                with room.writing_checkpoint(folder):
                    self._complete(args, state.global_step, folder, ranks)
        except RequestError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{os.uname().nodename}: {folder}: {error.strerror or error}"
        raise_together(problem)
        if writes:  # now that this one is whole on all hosts
            rotate_checkpoints(
                args.output_dir, args.save_total_limit, state.best_model_checkpoint, use_mtime=True
            )
        self.write("checkpoint", step=state.global_step, folder=str(folder.resolve()))

    def _complete(self, args: Any, step: int, folder: Path, ranks: list[tuple[bool, str]]) -> None:
        zero = engine.active_zero(self.trainer.model_wrapped)
        if args.deepspeed and not (folder / "latest").exists():
            # DeepSpeed lets global rank 0 alone write the name of the folder of its shards.
            (folder / "latest").write_text(f"global_step{step}")
        if not args.deepspeed and not list(folder.glob("*model*.safetensors")):
            # Without ZeRO they all have the same weights, but transformers writes them once.
            network = self.trainer.accelerator.unwrap_model(self.trainer.model)
            save_model(network, str(folder / "model.safetensors"), metadata={"format": "pt"})
        first = args.process_index
        nexts = [n for n, (leads, _) in enumerate(ranks) if leads and n > first]
        end = nexts[0] if nexts and args.save_on_each_node else len(ranks)
        write_manifest(
            folder, step=step, save=ranks[0][1], world_size=len(ranks),
            ranks=range(first, end), zero_stage=zero.stage,
        )  # fmt: skip


def checkpoint_to_resume(training: SftArgs) -> str | None:
    """The checkpoint folder to go on from, or None. Every rank has to call this.

    Raises RequestError, on all ranks, when it is not complete on every host, or was saved by
    another number of ranks or another ZeRO stage.
    """
    asked = training.resume_from_checkpoint
    leads = training.local_process_index == 0
    if asked is None or asked is False or str(asked).lower() == "false":
        _require_unused(Path(training.output_dir), leads)
        return None
    if asked is True or str(asked).lower() in (LATEST, LATEST_IF_ANY, "true"):
        have = read_checkpoints(Path(training.output_dir)) if leads else None
        step = newest_whole([one for one in of_all_ranks(have) if one is not None])
        if step is None and str(asked).lower() == LATEST_IF_ANY:
            return None
        if step is None:
            raise RequestError(
                f"--resume_from_checkpoint {asked}: no checkpoint in {training.output_dir} is "
                "complete on all hosts"
            )
        asked = Path(training.output_dir, f"checkpoint-{step}")
    _require_complete(str(asked), training, leads)
    return str(asked)


def prepare_universal(trainer: Trainer, checkpoint: str) -> None:
    """Have DeepSpeed take its shares out of a checkpoint that is for any number of ranks.

    DeepSpeed reads that from the configuration that its engine is made with: call it before.
    """
    if (Path(checkpoint) / LATEST_UNIVERSAL).is_file():
        config = trainer.accelerator.state.deepspeed_plugin.hf_ds_config.config
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}


def _require_unused(output: Path, leads: bool) -> None:
    """RequestError when ``output`` holds what an earlier run left: nothing is overwritten."""
    left = sorted(path.name for one in RESULTS for path in output.glob(one)) if leads else []
    raise_together(
        f"--output_dir {output}: {os.uname().nodename} has {left[0]} of an earlier run there: name "
        f"another folder, or go on from it with --resume_from_checkpoint {LATEST}" if left else None
    )  # fmt: skip


def _require_complete(asked: str, training: SftArgs, leads: bool) -> None:
    manifest, problem = check_folder(Path(asked), hashes=True) if leads else (None, None)
    where = f"--resume_from_checkpoint {asked}"
    raise_together(problem and f"{where}: on {os.uname().nodename}, {problem}")
    every = [one for one in of_all_ranks(manifest) if one is not None]
    stage = (
        engine.requested_zero(training.hf_deepspeed_config.config).stage
        if training.deepspeed
        else 0
    )
    if every[0]["world_size"] not in (ANY_RANKS, training.world_size):
        raise RequestError(
            f"{where} was saved by {every[0]['world_size']} ranks, this run has "
            f"{training.world_size}: each rank goes on with its own shard, so give it as many, or "
            f"convert it first: invoke export RUN/checkpoint-{every[0]['step']} --universal "
            "(trainer/universal.py)"
        )
    # One host after the other may have the same shared folder: whole() takes that, too.
    differ = whole(every)
    if differ:
        raise RequestError(f"{where}: {differ}")
    if every[0]["zero_stage"] != stage:
        raise RequestError(
            f"{where} was saved with ZeRO stage {every[0]['zero_stage']}, this run has {stage}: "
            "give it the same stage, or begin a new run from the weights in that folder"
        )
    raise_together(
        f"{where}: {os.uname().nodename} has no optimizer's state there (saved with "
        "--save_only_model): begin a new run from the weights in that folder"
        if leads and not _has_optimizer(Path(asked)) else None
    )  # fmt: skip
    here = manifest["ranks"] if manifest and manifest["world_size"] != ANY_RANKS else None
    lacks = here is not None and training.process_index not in here
    raise_together(
        f"{where}: {os.uname().nodename} is now rank {training.process_index}, but has the shards "
        f"of {here}: list the hosts in the order of that run" if lacks else None
    )  # fmt: skip


def _has_optimizer(checkpoint: Path) -> bool:
    """Without it transformers would go on with fresh moments, and say nothing."""
    universal = (checkpoint / LATEST_UNIVERSAL).is_file()
    return universal or any(
        any(checkpoint.glob(each)) for each in ("optimizer.pt", "global_step*/*_states.pt")
    )

"""Train, evaluate, save: what every objective does once its Trainer is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from trainer import engine, room
from trainer.card import write_card
from trainer.errors import RequestError
from trainer.finite import REMEDY, Finite, require_finite
from trainer.lean import Trainer
from trainer.metrics import Metrics, peak_memory_of_ranks
from trainer.pace import Pace
from trainer.pausing import Pause
from trainer.saving import (
    CompleteOnEachHost,
    checkpoint_to_resume,
    prepare_universal,
    raise_together,
    spread_saving,
)
from trainer.tally import EVAL, TRAIN, Tally, only


class CountingTrainer(Trainer):
    """A Trainer that counts tokens on each rank, and adds the ranks up only when it logs.

    transformers' own count (include_num_input_tokens_seen) waits for all ranks in each micro-batch.
    """

    _tokens: torch.Tensor | int = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As a Trainer."""
        base = getattr(kwargs["model"], "config", None)
        cached = getattr(base, "use_cache", None)
        super().__init__(*args, **kwargs)
        self._cached = cached
        self.tally = Tally()
        self.finite = Finite()

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Count, then train."""
        self._tokens = self._tokens + self.count_tokens(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.finite.note(loss)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As a Trainer, but older ones go only when this one is whole on all hosts (saving.py)."""
        require_finite(self.model, self.state.global_step)
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with room.writing_checkpoint(folder):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As a Trainer, which sets use_cache to false to train, and would save that in config.json:
        whoever generated with the result would do without a cache of keys and values.
        """
        config = getattr(self.model, "config", None)
        if config is not None and self._cached is not None:
            config.use_cache, trains = self._cached, config.use_cache
        try:
            super().save_model(*args, **kwargs)
        finally:
            if config is not None and self._cached is not None:
                config.use_cache = trains

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As a Trainer, which would go one step beyond the last when it resumes there (5.23)."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def count_tokens(self, inputs: dict[str, Any]) -> Any:
        """Tokens of a batch, without padding."""
        return inputs["attention_mask"].sum()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add ``tokens`` and the tally's means. Runs on every rank, as all logging does."""
        if "loss" in logs:
            mine = torch.as_tensor(self._tokens, device=self.args.device)
            logs["tokens"] = int(self.accelerator.reduce(mine, reduction="sum"))
            logs.update(self.tally.means(TRAIN, self.accelerator))
        elif f"{EVAL}loss" in logs:
            logs.update(self.tally.means(EVAL, self.accelerator))
        super().log(logs, *args, **kwargs)
        if "loss" in logs:
            self.finite.forget()


class Recorder(TrainerCallback):
    """Writes a run's events, after making sure that the ZeRO asked for is the one that runs."""

    def __init__(
        self, trainer: CountingTrainer, metrics: Metrics, say: Callable[[str], None]
    ) -> None:
        self.trainer = trainer
        self.metrics = metrics
        self.say = say

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check the engine, then record what is about to be trained. Runs on every rank."""
        wrapped = self.trainer.model_wrapped
        config = args.hf_deepspeed_config.config if args.deepspeed else None
        active = engine.active_zero(wrapped)
        engine.require_zero(engine.requested_zero(config), active)
        wanted = room.needs(
            self.trainer, state.max_steps, zero=active.stage, resumed=state.global_step > 0
        )
        raise_together(
            room.missing_room(Path(args.output_dir), wanted) if args.should_save else None
        )
        optimizer = engine.stepping_optimizer(self.trainer)
        trainable, total = count_parameters(self.trainer.model)
        self.say(
            f"{active}, stepped by {type(optimizer).__name__}; training {trainable:,} of {total:,} "
            f"parameters for {state.max_steps} steps"
        )
        sizes = (
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
        )
        self.say(
            f"effective batch {math.prod(sizes)}: "
            "{} a device x {} accumulated x {} ranks".format(*sizes)
        )
        self.metrics.write(
            "begin",
            total_steps=state.max_steps,
            first_step=state.global_step,
            zero_stage=active.stage,
            offload=active.offload,
            optimizer=type(optimizer).__name__,
            cpu_adam_so=engine.native_library(optimizer),
            trainable_parameters=trainable,
            parameters=total,
            rows=len(self.trainer.train_dataset),
            world_size=args.world_size,
            effective_batch=math.prod(sizes),
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Record a step or an evaluation."""
        logs = logs or {}
        if "loss" in logs:
            self.metrics.write(
                "step",
                step=state.global_step,
                total_steps=state.max_steps,
                loss=logs["loss"],
                grad_norm=logs.get("grad_norm"),
                lr=logs.get("learning_rate"),
                tokens=logs.get("tokens"),
                **only(logs, TRAIN),
            )
            if not math.isfinite(logs["loss"]):
                raise RequestError(
                    f"the loss of step {state.global_step} is {logs['loss']}, first in "
                    f"{self.trainer.finite.where()}: stopped. {REMEDY}; "
                    f"--max_grad_norm is {args.max_grad_norm}"
                )
        elif "eval_loss" in logs:
            self.metrics.write(
                "eval", step=state.global_step, loss=logs["eval_loss"], **only(logs, EVAL)
            )


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; under ZeRO-3 the whole ones, not this rank's part."""
    sizes = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in model.parameters()]
    return sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)


def _save(trainer: Trainer) -> str:
    """Save the result; its folder. Under ZeRO-3 all ranks put the weights together."""
    require_finite(trainer.model, trainer.state.global_step)
    output = Path(trainer.args.output_dir).resolve()
    with room.writing_result(output):
        trainer.save_model()
        trainer.save_state()
    return str(output)


def fit(trainer: Trainer, metrics: Metrics, say: Callable[[str], None]) -> None:
    """Train (on from a checkpoint if asked), save, evaluate. Every rank has to call this.

    A run that was asked to pause ends after the checkpoint that it then saved.
    """
    training = trainer.args
    trainer.add_callback(Recorder(trainer, metrics, say))
    trainer.add_callback(Pace(trainer))
    pause = Pause.of_environ()
    trainer.add_callback(pause)
    trainer.add_callback(CompleteOnEachHost(trainer, metrics.write))
    spread_saving(trainer, say)
    if metrics.kept or training.process_index != 0:
        # The record has every step, and one rank's word for it is enough.
        trainer.remove_callback(PrinterCallback)
    checkpoint = checkpoint_to_resume(training)
    if checkpoint:
        prepare_universal(trainer, checkpoint)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if pause.step is not None:
        metrics.write("paused", step=pause.step, total_steps=trainer.state.max_steps)
        say(f"asked to pause: saved at step {pause.step} of {trainer.state.max_steps}")
        pause.conclude(training)
        return
    # Before saving and evaluation, which are no part of what was planned.
    peaks = peak_memory_of_ranks(training.process_index)
    output = _save(trainer)
    metrics.write("saved", output=output)
    say(f"saved to {output}")
    if trainer.eval_dataset is not None:
        found = trainer.evaluate()
        loss = found["eval_loss"]
        more = "".join(f", {name} {value:.4f}" for name, value in only(found, EVAL).items())
        say(f"evaluation: loss {loss:.4f}, perplexity {math.exp(min(loss, 700)):.2f}{more}")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if training.process_index == 0:
        figures = {"loss_first": losses[0], "loss_last": losses[-1]} if losses else {}
        figures |= {"eval_loss": loss} if trainer.eval_dataset is not None else {}
        figures = {"steps": trainer.state.global_step, **figures}
        with room.writing_result(Path(output)):
            write_card(Path(output), training.given, figures)
    metrics.write(
        "end",
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        train_runtime=result.metrics["train_runtime"],
        **{key: value for key, value in peaks[0].items() if key != "rank"},
        ranks=peaks,
    )

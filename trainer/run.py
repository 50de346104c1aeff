"""A run of any objective: flags → tokens → model → Trainer → fit."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import set_seed

from trainer import features, lean, model, room
from trainer.args import DataArgs, LoraArgs, ModelArgs, SftArgs, parse_args
from trainer.errors import RequestError
from trainer.features import Encode, Features, Say
from trainer.fit import CountingTrainer, fit
from trainer.metrics import Metrics
from trainer.process import quiet
from trainer.quantize import make_quantization
from trainer.saving import of_all_ranks

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What differs between trainings.

    ``key``: of the flags, those that decide what a row's tokens are. ``arrange``: tokenised rows →
    the rows that are trained on. ``length``: the longest of those, and the flag that says so.
    ``remark``: what a user should know of this tokenizer.
    """

    name: str
    chats: bool
    encoder: Callable[[Any, Any], Encode]
    key: Callable[[Any], dict[str, Any]]
    arrange: Callable[[Rows, Any, Say], Rows]
    collator: Callable[[Any, Any], Any]
    length: Callable[[Any], tuple[int, str]]
    remark: Callable[[Any], str | None] = lambda _tokenizer: None
    trainer: type[CountingTrainer] = CountingTrainer
    data_args: type[DataArgs] = DataArgs
    lora_args: type[LoraArgs] = LoraArgs
    training_args: type[SftArgs] = SftArgs


def train(objective: Objective, argv: Sequence[str] | None = None) -> None:
    """Run it. Every rank of the run calls this."""
    with room.one_line_when_full():
        _train(objective, argv)


def _train(objective: Objective, argv: Sequence[str] | None) -> None:
    quiet()
    lean.spare_collector()
    model_args, data_args, lora_args, training = parse_args(
        argv, objective.data_args, objective.lora_args, objective.training_args
    )
    metrics = Metrics.of_rank(training.process_index)

    def say(line: str) -> None:
        if training.process_index == 0:
            print(f"trainer: {line}", file=sys.stderr, flush=True)

    room.make_folder(Path(training.output_dir))
    set_seed(training.seed)
    if training.deepspeed:
        lean.spare_compiler(training.hf_deepspeed_config.config)
    elif training.world_size > 1:
        say("no --deepspeed: plain data parallel, every rank holds everything")
    tokenizer = model.load_tokenizer(model_args, chats=objective.chats)
    if remark := objective.remark(tokenizer):
        say(remark)
    encode = objective.encoder(tokenizer, data_args)

    rows, evaluation = _rows(objective, encode, data_args, tokenizer, say)
    network = _network(objective, tokenizer, (model_args, data_args, lora_args, training))
    trainer = objective.trainer(
        model=network,
        args=training,
        train_dataset=rows,
        eval_dataset=evaluation,
        data_collator=objective.collator(tokenizer, data_args),
        processing_class=tokenizer,
    )
    fit(trainer, metrics, say)


def _rows(
    objective: Objective, encode: Encode, data_args: DataArgs, tokenizer: Any, say: Say
) -> tuple[Rows | None, Rows | None]:
    """What to train and to evaluate on, alike on all ranks; every rank calls this.

    Raises RequestError, on all of them, where the tokens of two hosts differ.
    """
    found: list[Rows | None] = []
    tokens: dict[str, str] = {}
    for paths, limit in (
        (data_args.train_file_dir, data_args.max_train_samples),
        (data_args.validation_file_dir, data_args.max_eval_samples),
    ):
        if paths is None:
            found.append(None)
            continue
        loaded = _load(objective, paths, limit, encode, data_args, tokenizer)
        first = f" (the first {limit:,} rows alone are read)" if limit else ""
        say(f"{paths}: {loaded}{first}")
        tokens[f"{paths}: {loaded}"] = loaded.digest
        found.append(objective.arrange(loaded.rows, data_args, say))
    features.apply_wait_for_ranks("tokenised")
    require_alike(tokens)
    return found[0], found[1]


def require_alike(mine: Mapping[str, str]) -> None:
    """RequestError where ranks have other tokens: each takes its rows by their numbers, so rows
    would be trained on twice, others never, or ranks wait for one another without end.

    ``mine``: what a rank says of its tokens → their digest. Every rank calls this.
    """
    said: dict[tuple[str, ...], str] = {}
    for rank, (host, tokens) in enumerate(of_all_ranks((socket.gethostname(), dict(mine)))):
        words = "; ".join(tokens)
        said.setdefault(tuple(tokens.values()), f"rank {rank} ({host}) has {words}")
    if len(said) > 1:
        raise RequestError(
            f"the ranks' tokens differ: {', '.join(list(said.values())[:2])}: bring the same data "
            "and tokenizer to every host"
        )


def _network(
    objective: Objective, tokenizer: Any, args: tuple[ModelArgs, DataArgs, LoraArgs, SftArgs]
) -> Any:
    """The model to train. Every rank calls this: under ZeRO-3 each gets its part."""
    model_args, data_args, lora_args, training = args
    model.prepare_checkpointing(training)
    dtype = model.weights_dtype(training, lora_args)
    network = model.load_model(model_args, dtype, make_quantization(lora_args, dtype))
    model.fit_vocabulary(network, tokenizer)
    model.fit_length(network, *objective.length(data_args))
    if objective.chats:
        model.set_stops(network, tokenizer)
    return model.attach_lora(network, lora_args, training) if lora_args.use_peft else network


def _load(
    objective: Objective,
    paths: str,
    limit: int | None,
    encode: Encode,
    data_args: DataArgs,
    tokenizer: Any,
) -> Features:
    def say(line: str) -> None:
        """Whoever of this host tokenises says so; the others wait without a word."""
        print(f"trainer: {socket.gethostname()}: {line}", file=sys.stderr, flush=True)

    skip = data_args.skip_bad_rows
    what = {**objective.key(data_args), "limit": limit, "skip": skip}
    cache = features.tokens_folder(data_args.token_cache)
    with room.one_line_when_full(cache):
        return features.apply_once(
            cache,
            features.tokens_key(paths, objective.name, what, tokenizer),
            lambda: features.load_features(
                paths, objective.name, encode, limit=limit, skip_bad=skip, say=say
            ),
            lambda _line: None,
        )

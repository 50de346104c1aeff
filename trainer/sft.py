r"""Supervised fine-tuning, full or LoRA, under torchrun:

    python -m torch.distributed.run ... -m trainer.sft --model_name_or_path MODEL \
        --train_file_dir DATA --output_dir OUT --deepspeed zero_configs/zero2.json

Flags: trainer/args.py and every one of transformers' TrainingArguments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import set_seed

from trainer import data, model
from trainer.args import parse_args
from trainer.fit import CountingTrainer, fit
from trainer.metrics import Metrics


@record  # so that torchrun learns of an exception by its error file
def main(argv: Sequence[str] | None = None) -> None:
    """Parse → data → model → Trainer → fit."""
    model_args, data_args, lora_args, training = parse_args(argv)
    metrics = Metrics.of_rank(training.process_index)

    def say(line: str) -> None:
        if training.process_index == 0:
            print(f"trainer: {line}", file=sys.stderr, flush=True)

    set_seed(training.seed)
    if not training.deepspeed and training.world_size > 1:
        say("no --deepspeed: plain data parallel, every rank holds everything")

    tokenizer = model.load_tokenizer(model_args)
    if not data.teaches_to_stop(tokenizer):
        say("note: the chat template ends answers with no special token; their end is not learned")

    def features(paths: str | None, limit: int | None) -> data.Features | None:
        if paths is None:
            return None
        length = data_args.model_max_length
        loaded = data.load_features(paths, tokenizer, max_length=length, limit=limit, say=say)
        say(f"{paths}: {loaded}")
        return loaded

    train = features(data_args.train_file_dir, data_args.max_train_samples)
    evaluation = features(data_args.validation_file_dir, data_args.max_eval_samples)

    model.prepare_checkpointing(training)
    network = model.load_model(model_args, model.weights_dtype(training, lora_args))
    model.fit_vocabulary(network, tokenizer)
    if lora_args.use_peft:
        network = model.attach_lora(network, lora_args, training)

    trainer = CountingTrainer(
        model=network,
        args=training,
        train_dataset=train.rows,
        eval_dataset=evaluation.rows if evaluation else None,
        data_collator=data.Collator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    fit(trainer, metrics, say)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

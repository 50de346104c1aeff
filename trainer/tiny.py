"""A tiny random Qwen3 to try a cluster with: ``python -m trainer.tiny OUTPUT_DIR [--data PATH]``.

Same architecture, tokenizer kind and chat format as a real Qwen3, about 164,000 parameters. The
same data and versions give the same bytes. It knows nothing; a few steps of training make its loss
fall.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from trainer.errors import RequestError
from trainer.rows import Problem, read_rows

EXAMPLES = Path(__file__).parent.parent / "examples" / "conversations.jsonl"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

#: ChatML as Qwen2.5 and Qwen3 write it, without tools and thinking.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


def make_tokenizer(data: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocabulary`` tokens, learned from the texts of ``data``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(data), trainer=trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )


def _texts(data: str) -> Iterator[str]:
    for row in read_rows(data):
        if isinstance(row, Problem):
            raise RequestError(str(row))
        for message in row.messages:
            yield message["content"]


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A random Qwen3 of two layers for this tokenizer, always with the same weights."""
    set_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        # Five times the usual, so that the untrained output layer can tell tokens apart: a LoRA
        # adapter leaves it frozen, and its loss could otherwise hardly fall.
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).to(torch.bfloat16)


def main() -> None:
    """Write model and tokenizer to OUTPUT_DIR."""
    parser = argparse.ArgumentParser(prog="python -m trainer.tiny", description=__doc__)
    parser.add_argument("output_dir")
    parser.add_argument("--data", default=str(EXAMPLES), help="conversations to learn tokens from")
    parser.add_argument("--vocabulary", type=int, default=1024, help="at most so many tokens")
    args = parser.parse_args()
    tokenizer = make_tokenizer(args.data, args.vocabulary)
    model = make_model(tokenizer)
    tokenizer.save_pretrained(args.output_dir)
    model.save_pretrained(args.output_dir)
    print(f"{args.output_dir}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()

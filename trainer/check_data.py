r"""What a run would make of its data: ``python -m trainer.check_data OBJECTIVE FLAGS…``.

OBJECTIVE is sft, orpo or pretrain, FLAGS are those of the run (``--model_name_or_path MODEL
--train_file_dir DATA …``): rows are read, rendered, tokenised and cut by the code that trains.
Every bad row is named. The model itself is not loaded, only its tokenizer. ``--json``, as the first
word, gives one JSON object on stdout.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainer.args import ModelArgs, translated
from trainer.data import MASKED
from trainer.errors import RequestError
from trainer.features import Encode, Encoded
from trainer.flags import Parser
from trainer.model import load_tokenizer
from trainer.rows import Row, read_rows
from trainer.run import Objective

OBJECTIVES = ("sft", "orpo", "pretrain")
#: Samples that are rendered; rows of the histogram; bad rows that are told one by one.
SAMPLES, BINS, PROBLEMS = 3, 12, 1000
#: Longer than any row: what a row has before it is cut.
UNCUT = 1 << 30
Say = Callable[[str], None]


def parse(objective: Objective, argv: Sequence[str], say: Say) -> tuple[ModelArgs, Any]:
    """Model and data flags of a run. Its other flags have to be flags, and are not looked at."""
    kinds = (ModelArgs, objective.data_args, objective.lora_args, objective.training_args)
    parser = Parser(kinds)
    given = vars(parser.parse_args(translated(parser, argv, say)))

    def make(kind: Any) -> Any:
        return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})

    return make(ModelArgs), make(objective.data_args)


def uncut(args: Any) -> Any:
    """The data flags with no limit on a row's tokens."""
    limits = {"model_max_length": UNCUT}
    if hasattr(args, "max_prompt_length"):
        limits["max_prompt_length"] = UNCUT - 1
    return dataclasses.replace(args, **limits)


def longest(encoded: Encoded) -> int:
    """Tokens of a row; of a pair, those of the longer answer with its prompt."""
    columns = encoded.columns or {}
    return max((len(v) for n, v in columns.items() if n.endswith("input_ids")), default=0)


def render(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> list[dict[str, Any]]:
    """A row's texts, each in pieces that are learned or not, in order: [{"name", "pieces"}]."""
    columns = encoded.columns or {}
    texts = []
    for name in columns:
        if not name.endswith("input_ids"):
            continue
        labels = columns[name.replace("input_ids", "labels")]
        learned = labels != MASKED
        edges = [0, *(np.flatnonzero(np.diff(learned)) + 1).tolist(), len(learned)]
        pieces = [
            {
                "learned": bool(learned[begin]),
                "text": str(tokenizer.decode(columns[name][begin:end])),
            }
            for begin, end in pairwise(edges)
            if end > begin
        ]
        texts.append({"name": name.removesuffix("input_ids").rstrip("_"), "pieces": pieces})
    return texts


def histogram(lengths: Sequence[int]) -> list[dict[str, int]]:
    """How many rows have how many tokens: [{"from", "to", "rows"}], bounds in both. Pure."""
    if not lengths:
        return []
    width = max(1, -(-(max(lengths) + 1) // BINS))
    width = next(w for n in range(40) for w in (1 << n, 3 << n >> 1) if w >= width)
    counts = Counter(length // width for length in lengths)
    return [
        {"from": n * width, "to": (n + 1) * width - 1, "rows": counts[n]}
        for n in range(min(counts), max(counts) + 1)
    ]


def summarize(lengths: Sequence[int]) -> dict[str, int]:
    """Least, middle, nineteen twentieths, most, and all of them."""
    if not lengths:
        return {}
    middle, high = np.percentile(lengths, [50, 95], method="lower")
    return {
        "min": min(lengths), "median": int(middle), "p95": int(high), "max": max(lengths),
        "sum": sum(lengths),
    }  # fmt: skip


def check(objective: Objective, model_args: ModelArgs, data_args: Any, say: Say) -> dict[str, Any]:
    """Every row of the data, as the run would have it. RequestError for a model or template that
    can't be had.
    """
    tokenizer = load_tokenizer(model_args, chats=objective.chats)
    encode, whole = (objective.encoder(tokenizer, a) for a in (data_args, uncut(data_args)))
    totals: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    problems: list[dict[str, Any]] = []
    lengths: list[int] = []
    samples: list[dict[str, Any]] = []
    for row, found in _encoded(data_args.train_file_dir, objective.name, encode, say):
        if row is None:
            totals["bad"] += 1
            problems += [found] if len(problems) < PROBLEMS else []
            continue
        totals["rows"] += 1
        formats[row.format] += 1
        totals["cut"] += found.cut
        totals["dropped"] += found.columns is None
        totals["learned"] += found.learned if found.columns is not None else 0
        before = whole(row) if found.cut or found.columns is None else found
        lengths.append(longest(before))
        if found.columns is not None and len(samples) < SAMPLES:
            texts = render(tokenizer, found)
            samples.append({"file": row.file, "line": row.line, "texts": texts})
    counts = {name: totals[name] for name in ("rows", "bad", "cut", "dropped", "learned")}
    return {
        "objective": objective.name, "formats": dict(formats), **counts,
        "limit": objective.length(data_args)[0] if objective.name != "pretrain" else None,
        "lengths": summarize(lengths), "histogram": histogram(lengths), "samples": samples,
        "problems": problems,
    }  # fmt: skip


def _encoded(
    paths: str, objective: str, encode: Encode, say: Say
) -> Iterator[tuple[Row, Encoded] | tuple[None, dict[str, Any]]]:
    """Each row with its tokens; or, in place of both, None and what is wrong with it."""
    told = time.monotonic()
    for number, item in enumerate(read_rows(paths, objective), start=1):
        if time.monotonic() - told > 5:
            told = time.monotonic()
            say(f"{number:,} rows read")
        if not isinstance(item, Row):
            yield None, item._asdict()
            continue
        try:
            yield item, encode(item)
        except RequestError as error:
            wrong = {"found": str(error), "expected": "a conversation that the template takes"}
            yield None, {"file": item.file, "line": item.line, **wrong}


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, and say what was found; exit 1 where rows are bad."""
    words = list(sys.argv[1:] if argv is None else argv)
    plain = words[:1] == ["--json"] and words.pop(0)
    if not words or words[0] not in OBJECTIVES:
        sys.exit(f"usage: python -m trainer.check_data [--json] {'|'.join(OBJECTIVES)} FLAGS…")
    objective = importlib.import_module(f"trainer.{words[0]}").OBJECTIVE
    try:
        found = check(objective, *parse(objective, words[1:], _note), _note)
    except RequestError as error:
        sys.exit(f"check_data: {error}")
    print(json.dumps(found, indent=None if plain else 1), flush=True)
    if found["bad"] and not plain:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Rows → token arrays: tokenised once per host behind one lock, and kept there.

No rank waits for another inside a collective meanwhile: the ranks of a host wait for its lock, the
hosts for one another at torchrun's own store, for as long as it takes
(https://github.com/hiyouga/LLaMA-Factory/issues/360 is what happens otherwise).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from trainer.errors import RequestError
from trainer.rows import Problem, Row, read_files, read_rows

Say = Callable[[str], None]
#: Problems that are shown before a run stops.
SHOWN = 5
#: Files of ours whose change makes other tokens of the same rows.
SOURCES = ("features", "data", "formats", "rows", "tables", "orpo", "pretrain", "sft")
#: Kept tokens that no run used for so long are removed.
KEPT_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A row's arrays by column, int32 each, or None when nothing of it can be learned.

    ``cut``: it was longer than what may be used. ``learned``: tokens with a label.
    """

    columns: dict[str, np.ndarray] | None
    cut: bool = False
    learned: int = 0


Encode = Callable[[Row], Encoded]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What happened to the rows. ``dropped`` left out for their length, ``bad`` with a problem."""

    read: int = 0
    cut: int = 0
    dropped: int = 0
    bad: int = 0
    learned: int = 0
    formats: dict[str, int] = field(default_factory=dict)


class TokenRows(Sequence[dict[str, np.ndarray]]):
    """Rows of int32 arrays, one after another in one array for each column."""

    def __init__(self, columns: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """``columns``: name → (all values, where each row begins, and the end)."""
        self.columns = columns

    @classmethod
    def of(cls, rows: Sequence[dict[str, np.ndarray]]) -> TokenRows:
        """The same rows, stored so."""
        columns = {}
        for name in rows[0] if rows else ():
            ends = np.cumsum([0] + [len(row[name]) for row in rows], dtype=np.int64)
            columns[name] = (np.concatenate([row[name] for row in rows]).astype(np.int32), ends)
        return cls(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))[1]) - 1 if self.columns else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return {n: np.array(v[e[index] : e[index + 1]]) for n, (v, e) in self.columns.items()}

    @property
    def tokens(self) -> int:
        """All token ids, of every column of them."""
        return sum(len(v) for n, (v, _) in self.columns.items() if n.endswith("input_ids"))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Tokenised rows, and what happened to the rows on the way. ``digest``: of the kept tokens."""

    rows: Sequence[dict[str, np.ndarray]]
    counts: Counts
    tokens: int
    digest: str = ""

    def __str__(self) -> str:
        counts = self.counts
        formats = " and ".join(f"{n:,} {name}" for name, n in counts.formats.items())
        text = f"{len(self.rows)} rows ({formats} read), {self.tokens:,} tokens, "
        text += f"{counts.learned:,} of them learned"
        if counts.cut:
            text += f"; {counts.cut} of {counts.read} rows cut at the maximum length"
        if counts.dropped:
            text += f"; {counts.dropped} rows left out: nothing to learn within the length allowed"
        if counts.bad:
            text += f"; {counts.bad} bad rows skipped"
        return text


def load_features(
    paths: str, objective: str, encode: Encode, *, limit: int | None, skip_bad: bool, say: Say
) -> Features:
    """Tokenise the (first ``limit``) rows of ``paths``.

    Raises RequestError when a row is bad (a file, when ``skip_bad``), or when nothing is left.
    """
    rows: list[dict[str, np.ndarray]] = []
    totals: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    told = time.monotonic()
    for row in _good_rows(paths, objective, limit, totals, skip_bad=skip_bad):
        totals["read"] += 1
        formats[row.format] += 1
        try:
            encoded = encode(row)
        except RequestError as error:
            raise RequestError(f"{row.file}:{row.line}: {error}") from None
        totals["cut"] += encoded.cut
        totals["learned"] += encoded.learned
        if encoded.columns is None:
            totals["dropped"] += 1
        else:
            rows.append(encoded.columns)
        if time.monotonic() - told > 5:
            told = time.monotonic()
            say(f"{paths}: {totals['read']:,} rows tokenised")
    if not rows:
        raise RequestError(
            f"{paths}: none of {totals['read']} rows has anything to learn within the length "
            "allowed: raise --model_max_length (for orpo also --max_prompt_length)"
        )
    stored = TokenRows.of(rows)
    counts = Counts(**totals, formats=dict(formats))
    return Features(rows=stored, counts=counts, tokens=stored.tokens)


def _good_rows(
    paths: str, objective: str, limit: int | None, totals: Counter[str], *, skip_bad: bool
) -> Iterator[Row]:
    problems: list[Problem] = []
    count = 0
    for item in read_rows(paths, objective):
        if isinstance(item, Row):
            if not problems:
                yield item
                count += 1
        elif skip_bad and item.line:
            totals["bad"] += 1
        else:
            problems.append(item)
        if count == limit or len(problems) == SHOWN:
            break
    if problems:
        lines = "\n  ".join(map(str, problems))
        hint = "" if skip_bad else "\n  (--skip_bad_rows true leaves bad rows out, and counts them)"
        raise RequestError(f"{paths}: bad rows (the first {len(problems)}):\n  {lines}{hint}")


def tokens_key(paths: str, objective: str, what: dict[str, Any], tokenizer: Any) -> str:
    """The name that these rows' tokens are kept under: of all that decides what they are."""
    files = []
    for file in read_files(paths, objective):
        if isinstance(file, Problem):
            raise RequestError(str(file))
        stat = Path(file).stat()
        files.append([str(Path(file).resolve()), stat.st_size, stat.st_mtime_ns])
    folder = Path(__file__).parent
    ours = [(folder / f"{name}.py").read_text() for name in SOURCES]
    words = [_vocabulary(tokenizer), tokenizer.chat_template, tokenizer.special_tokens_map]
    text = json.dumps([objective, files, what, ours, words], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _vocabulary(tokenizer: Any) -> Any:
    """All that makes tokens of a text. Those written in Python (--trust_remote_code) have no one
    text of it.
    """
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.to_str()
    return [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs]


def tokens_folder(named: str | None) -> Path:
    """Where tokens are kept on this host."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(named) if named else Path(cache) / "zerofleet" / "tokens"


def apply_once(folder: Path, key: str, make: Callable[[], Features], say: Say) -> Features:
    """The features kept as ``key``; made by the first process of this host that asks.

    Raises RequestError where the folder can't be written.
    """
    kept = folder / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given up when this process ends, however it does
            if (kept / "counts.json").is_file():
                os.utime(kept)
                say(f"tokens of an earlier tokenisation: {kept}")
            else:
                _write(kept, make())
                _remove_old(folder)
        return _read(kept)
    except OSError as error:
        raise RequestError(f"--token_cache {folder}: {error}") from None


def _write(kept: Path, features: Features) -> None:
    new = kept.with_name(f"{kept.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    rows = features.rows
    assert isinstance(rows, TokenRows)
    digest = hashlib.sha256()
    for name, (values, ends) in sorted(rows.columns.items()):
        np.save(new / f"{name}.npy", values)
        np.save(new / f"{name}.ends.npy", ends)
        for part in (name.encode(), ends.data, values.data):
            digest.update(part)
    kept_counts = {"counts": asdict(features.counts), "digest": digest.hexdigest()}
    (new / "counts.json").write_text(json.dumps(kept_counts))
    new.rename(kept)


def _read(kept: Path) -> Features:
    """Mapped, so that the ranks of a host share one copy in memory."""
    names = sorted(path.name[: -len(".ends.npy")] for path in kept.glob("*.ends.npy"))
    columns = {
        name: (np.load(kept / f"{name}.npy", mmap_mode="r"), np.load(kept / f"{name}.ends.npy"))
        for name in names
    }
    rows = TokenRows(columns)
    found = json.loads((kept / "counts.json").read_text())
    counts = Counts(**found["counts"])
    return Features(rows=rows, counts=counts, tokens=rows.tokens, digest=found["digest"])


def _remove_old(folder: Path) -> None:
    before = time.time() - KEPT_DAYS * 86400
    for path in folder.iterdir():
        if path.is_dir() and path.stat().st_mtime < before:
            shutil.rmtree(path, ignore_errors=True)


def apply_wait_for_ranks(name: str) -> None:
    """Return once every rank of the run called this; no collective, and no time limit.

    A rank that fails meanwhile ends the run: torchrun and the supervisors see to that.
    """
    environ = os.environ
    if int(environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_PORT" not in environ:
        return
    forever = timedelta(days=365)
    store = dist.TCPStore(
        environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False, timeout=forever
    )
    prefix = f"zerofleet/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"
    store.set(f"{prefix}/{environ['RANK']}", "here")
    store.wait([f"{prefix}/{rank}" for rank in range(int(environ["WORLD_SIZE"]))], forever)

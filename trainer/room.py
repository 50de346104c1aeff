"""Room on a disk: what a run is sure to write, and a disk that is full in one line."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from trainer.checkpoints import MANIFEST, read_checkpoints
from trainer.errors import RequestError

#: As the kernel says it, through whatever wrote: transformers, safetensors and tokenizers (whose
#: Rust keeps no errno), DeepSpeed, torch.
_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)}
#: torch.save's zip writer keeps no reason: "unexpected pos 185344 vs 185296", "iostream error".
_TORCH = re.compile(r"unexpected pos \d|iostream error|PytorchStreamWriter")
#: A disk that can't take so much is full; what torch began lies there still.
_PROBE = 1 << 20
#: What a result consists of that is of no use in part.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin")


def full_disk_words(error: BaseException, folder: Path) -> str | None:
    """The kernel's words for a full disk, when it is what ``error`` comes from; else None."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__
    for each in chain:
        for code, words in _FULL.items():
            if getattr(each, "errno", None) == code or words in str(each):
                return words
    if any(isinstance(each, RuntimeError) and _TORCH.search(str(each)) for each in chain):
        return _probe(folder)
    return None


def _probe(folder: Path) -> str | None:
    """What the kernel says when a little is written into ``folder``; None if that works."""
    path = folder / f".room-{os.getpid()}"
    try:
        with path.open("wb") as stream:
            stream.write(bytes(_PROBE))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return _FULL.get(error.errno or 0)
    finally:
        path.unlink(missing_ok=True)
    return None


def make_folder(output: Path) -> None:
    """``output``, or RequestError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{os.uname().nodename}: --output_dir {output}: {error.strerror}: name another folder"
        ) from error


@contextlib.contextmanager
def one_line_when_full(where: Path | None = None) -> Iterator[None]:
    """Whatever else finds no room: one line, with the file if it is known, or else ``where``."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        name = getattr(error, "filename", None) or where
        words = full_disk_words(error, Path(name).parent if name else Path())
        if words is None:
            raise
        into = f"{name} can't be written" if name else "a file of this run can't be written"
        raise RequestError(f"{os.uname().nodename}: {words}: {into}: make room there") from error


def writing_checkpoint(folder: Path) -> AbstractContextManager[None]:
    """While ``folder`` is written. One that finds no room is emptied: nobody can go on from it.

    Its folders stay, so that ranks which still write into them meet no other error.
    """
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink()  # of an earlier save of this step: it is not whole any more

    def written() -> list[Path]:
        return [path for path in folder.rglob("*") if path.is_file()]

    return _whole_or_not_at_all(folder.parent, folder.name, folder, written)


def writing_result(folder: Path) -> AbstractContextManager[None]:
    """While the result is written into ``folder``. Without room no part of its weights stays."""
    before = _weights(folder)

    def written() -> list[Path]:
        return [path for path, stamp in _weights(folder).items() if before.get(path) != stamp]

    return _whole_or_not_at_all(folder, "the result", folder, written)


@contextlib.contextmanager
def _whole_or_not_at_all(
    output: Path, what: str, folder: Path, written: Callable[[], list[Path]]
) -> Iterator[None]:
    """While ``what`` of ``output`` is written into ``folder``: without room, ``written`` goes."""
    try:
        yield
    except Exception as error:
        words = full_disk_words(error, folder)
        if words is None:
            raise
        for path in written():
            path.unlink(missing_ok=True)
        raise RequestError(_no_room(words, output, what)) from error


def _weights(folder: Path) -> dict[Path, tuple[int, int]]:
    """What tells a file of weights from one written in its place."""
    found = (path for pattern in WEIGHTS for path in folder.glob(pattern))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def _no_room(words: str, output: Path, what: str) -> str:
    """One line: what does not fit where, and what to do."""
    have = read_checkpoints(output)
    newest = output / f"checkpoint-{max(have)}" if have else None
    # In the past tense: whoever else writes there goes on.
    free = f"{size(shutil.disk_usage(output).free)} are free"
    took = ""
    if newest:
        sizes = (path.stat().st_size for path in newest.rglob("*") if path.is_file())
        took = f", {newest.name} has {size(sum(sizes))}"
    then = f"; --resume_from_checkpoint latest goes on from {newest.name}" if newest else ""
    return (
        f"{os.uname().nodename}: {words}: {what} does not fit into {output} ({free}{took}): make "
        f"room there, or keep fewer checkpoints (--save_total_limit){then}"
    )


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run writes to this host: bytes of one result, of one checkpoint's optimizer states,
    and how many checkpoints lie beside the result at its end.
    """

    weights: int
    states: int
    checkpoints: int

    @property
    def total(self) -> int:
        """Bytes; no run of this kind writes fewer."""
        return self.weights * (self.checkpoints + 1) + self.states * self.checkpoints


def needs(trainer: Any, max_steps: int, *, zero: int, resumed: bool) -> Needs:
    """What is certain. A run that goes on finds room in what it replaces: its result alone."""
    args = trainer.args
    sizes = [
        (p.requires_grad, getattr(p, "ds_numel", p.numel()) * p.element_size())
        for p in trainer.model.parameters()
    ]
    trained = sum(size for trains, size in sizes if trains)
    adapter = isinstance(trainer.model, PeftModel)
    saves = 0 if args.save_strategy in ("no", "best") or resumed else 1
    if saves and args.save_strategy == "steps" and trainer.state.save_steps:
        saves = math.ceil(max_steps / trainer.state.save_steps)
    # Two moments, not smaller than the weights; of other optimizers nothing is certain.
    states = 2 * trained if str(args.optim).startswith("adamw_torch") else 0
    if args.save_only_model or "bit" in str(args.optim):
        states = 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Needs(
        weights=trained if adapter else sum(size for _, size in sizes),
        states=states * ranks // args.world_size if zero else states,
        # Without a limit somebody may move checkpoints elsewhere, but not the one just written.
        checkpoints=min(saves, args.save_total_limit or 1),
    )


def missing_room(
    output: Path, wanted: Needs, free: Callable[[Path], int] | None = None
) -> str | None:
    """Why a run would end for want of room, or None. ``free``: bytes that a folder's disk has."""
    have = free(output) if free else shutil.disk_usage(output).free
    if have >= wanted.total:
        return None
    parts = f"{wanted.checkpoints} checkpoints and the result" if wanted.checkpoints else "a result"
    return (
        f"{os.uname().nodename}: {output} has {size(have)} free, and this run writes at least "
        f"{size(wanted.total)} there ({parts}): make room, name another --output_dir, or lower "
        "--save_total_limit"
    )


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

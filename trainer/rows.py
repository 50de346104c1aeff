"""Rows of data files and folders, each a sample or named as a problem.

Standard library only, Python >= 3.8, with formats.py and tables.py: hosts run these very files,
before a run, as one program; the trainer imports them. Both so apply the same rules.

Paths are files (.jsonl .json .csv .parquet .arrow, and for pretraining .txt: a line is a row),
folders of them, and ``hf://datasets/OWNER/NAME[@REVISION][/PATH]``: what this host's hub cache has.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Tuple, Union

from trainer.formats import BadRow, Messages, sample_of, short
from trainer.tables import arrow_values, csv_values

SHOWN_PROBLEMS = 20
HUB = "hf://datasets/"
#: What datasets.save_to_disk writes beside the data.
BOOKKEEPING = {"dataset_info.json", "state.json", "dataset_dict.json"}


class Row(NamedTuple):
    """One sample, and where it was read (``line`` counts from 1). See formats.Sample."""

    file: str
    line: int
    messages: Messages
    chosen: str = ""
    rejected: str = ""
    text: str = ""
    format: str = ""


class Problem(NamedTuple):
    """One thing that keeps a file or row from being used (``line`` 0: the file as a whole)."""

    file: str
    line: int
    found: str
    expected: str

    def __str__(self) -> str:
        where = "%s:%d" % (self.file, self.line) if self.line else self.file
        return "%s: found %s, expected %s" % (where, self.found, self.expected)


def read_rows(paths: str, objective: str = "sft") -> Iterator[Union[Row, Problem]]:
    """Every row of the comma-separated files and folders, in order; bad ones as problems.

    ``objective`` (sft, orpo, pretrain) says which formats are meant: formats.FORMATS.
    """
    for file in read_files(paths, objective):
        if isinstance(file, Problem):
            yield file
        else:
            yield from _read_file(file, objective)


def read_files(paths: str, objective: str = "sft") -> Iterator[Union[str, Problem]]:
    """Every data file of the comma-separated files and folders, in order."""
    for path in (each.strip() for each in paths.split(",")):
        yield from _files(_cached(path) if path.startswith(HUB) else path, _readers(objective))


def _readers(objective: str) -> Dict[str, Callable[[str], Iterator[Tuple[int, Any]]]]:
    return {**READERS, ".txt": _text_values} if objective == "pretrain" else READERS


def _cached(path: str) -> Union[str, Problem]:
    """The folder or file of a hub data set in this host's cache; nothing is downloaded.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    owner, _, rest = path[len(HUB) :].partition("/")
    name, _, inside = rest.partition("/")
    name, _, revision = name.partition("@")
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    folder = os.path.join(hub, "datasets--%s--%s" % (owner, name))
    commit = revision or "main"
    try:
        with open(os.path.join(folder, "refs", commit), encoding="ascii") as stream:
            commit = stream.read().strip()
    except OSError:
        pass  # a commit itself
    found = os.path.join(folder, "snapshots", commit, inside).rstrip("/")
    if name and os.path.exists(found):
        return found
    remedy = "it there: hf download --repo-type dataset %s/%s" % (owner, name)
    return Problem(path, 0, "nothing of it in this host's hub cache (%s)" % hub, remedy)


def _files(path: Union[str, Problem], endings: Iterable[str]) -> Iterator[Union[str, Problem]]:
    """A file itself, or the data files below a folder, sorted by path."""
    formats = tuple(endings)
    said = " ".join(formats)
    if isinstance(path, Problem):
        yield path
    elif os.path.isdir(path):
        unreadable: List[OSError] = []
        found = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path, onerror=unreadable.append)
            for name in names
            if name.endswith(formats) and not _is_bookkeeping(name, names)
        )
        for error in unreadable:
            yield Problem(str(error.filename), 0, str(error.strerror), "a readable folder")
        if not found and not unreadable:
            yield Problem(path, 0, "a folder without data files", "files in it of %s" % said)
        yield from found
    elif not os.path.exists(path):
        yield Problem(path, 0, "no such file or folder", "a file (%s) or folder" % said)
    elif not path.endswith(formats):
        yield Problem(path, 0, short(os.path.basename(path)), "a file of %s, or a folder" % said)
    else:
        yield path


def _is_bookkeeping(name: str, beside: List[str]) -> bool:
    whole = {"dataset_info.json", "state.json"} <= set(beside) or "dataset_dict.json" in beside
    return whole and name in BOOKKEEPING


def _read_file(file: str, objective: str) -> Iterator[Union[Row, Problem]]:
    read = _readers(objective)[os.path.splitext(file)[1]]
    empty, style = True, ""
    try:
        for line, value in read(file):
            empty = False
            try:
                if isinstance(value, BadRow):
                    raise value
                sample = sample_of(value, objective)
                style = style or sample.format
                if sample.format != style:
                    raise BadRow("a row of %s" % sample.format, "%s, as before" % style)
                yield Row(file, line, *sample)
            except BadRow as bad:
                yield Problem(file, line, bad.found, bad.expected)
    except OSError as error:
        yield Problem(file, 0, str(error.strerror or error), "a readable file")
        return
    if empty:
        yield Problem(file, 0, "an empty file", "at least one row")


def _jsonl_values(file: str) -> Iterator[Tuple[int, Any]]:
    """(line, value or BadRow) of every line that is not blank."""
    with open(file, "rb") as stream:
        for line, raw in enumerate(stream, start=1):
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield line, _not_utf8(error)
                continue
            if text.strip():
                try:
                    yield line, json.loads(text)
                except (ValueError, RecursionError) as error:
                    yield line, BadRow("invalid JSON (%s)" % _reason(error), "one JSON object")


def _json_values(file: str) -> Iterator[Tuple[int, Any]]:
    """(line, value or BadRow) of a .json file: one array of rows, or objects one after another.

    Values are decoded one by one, so that every row's own first line is known.
    """
    with open(file, "rb") as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield raw[: error.start].count(b"\n") + 1, _not_utf8(error)
        return
    decoder, array = json.JSONDecoder(), text.lstrip()[:1] == "["
    at = _skip_blank(text, 0) + (1 if array else 0)
    line, counted = 1, 0
    while True:
        at = _skip_blank(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if at == len(text) and not array:
            return
        if array and text[at : at + 1] == "]":
            rest = _skip_blank(text, at + 1)
            if rest < len(text):
                yield line, BadRow("text after the closing ]", "nothing")
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            # Where the next row begins can't be known: the rest of the file goes unread.
            yield line, BadRow("invalid JSON (%s)" % _reason(error), "JSON objects")
            return
        yield line, value
        at = _skip_blank(text, end)
        if array and text[at : at + 1] == ",":
            at += 1
        elif array and text[at : at + 1] != "]":
            yield line, BadRow("no comma or ] after this row", "a JSON array of rows")
            return


def _text_values(file: str) -> Iterator[Tuple[int, Any]]:
    """(line, {"text": line} or BadRow) of every line that is not blank."""
    with open(file, "rb") as stream:
        for line, raw in enumerate(stream, start=1):
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield line, _not_utf8(error)
                continue
            if text.strip():
                yield line, {"text": text}


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _not_utf8(error: UnicodeDecodeError) -> BadRow:
    return BadRow("byte 0x%02x that is not UTF-8" % error.object[error.start], "UTF-8 text")


def _reason(error: BaseException) -> str:
    return short(str(error)) if isinstance(error, ValueError) else "nested too deep"


#: Ending of a file's name -> how its values are read, each with its line.
READERS: Dict[str, Callable[[str], Iterator[Tuple[int, Any]]]] = {
    ".jsonl": _jsonl_values,
    ".json": _json_values,
    ".csv": csv_values,
    ".parquet": arrow_values,
    ".arrow": arrow_values,
}


def check(objective: str, paths: Iterable[str]) -> Dict[str, Any]:
    """What ``python3 - rows OBJECTIVE PATH...`` prints: counts, and the first problems."""
    files, formats, rows, count = set(), set(), 0, 0
    shown: List[Problem] = []
    for item in read_rows(",".join(map(os.path.expanduser, paths)), objective):
        if os.path.isfile(item.file):
            files.add(item.file)
        if isinstance(item, Row):
            rows += 1
            formats.add(item.format)
        else:
            count += 1
            if len(shown) < SHOWN_PROBLEMS:
                shown.append(item)
    return {
        "files": len(files),
        "rows": rows,
        "formats": sorted(formats),
        "problems": [problem._asdict() for problem in shown],
        "problem_count": count,
    }


def name_files(objective: str, paths: Iterable[str]) -> Dict[str, Any]:
    """What ``python3 - files OBJECTIVE PATH...`` prints: the files whose rows are read.

    Under names that begin as the path was given, alike wherever homes and hub caches lie; or why
    not all of them can be named.
    """
    found: Dict[str, str] = {}
    for path in paths:
        root = _cached(path) if path.startswith(HUB) else os.path.expanduser(path)
        for file in _files(root, _readers(objective)):
            if isinstance(file, Problem):
                return {"error": str(file)}
            inside = "" if file == root else "/" + os.path.relpath(file, str(root))
            found[path.rstrip("/") + inside] = file
    return {"files": found}


if __name__ == "__main__":
    asked = {"rows": check, "files": name_files}[sys.argv[1]]
    # Between sentinels, because a login shell may print noise around it.
    print("ZEROFLEET<<" + json.dumps(asked(sys.argv[2], sys.argv[3:])) + ">>ZEROFLEET")

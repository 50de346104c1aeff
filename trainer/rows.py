"""Conversations from .jsonl and .json files, each row normalised to messages or named as a problem.

Standard library only and self-contained, Python >= 3.8: hosts run this very file alone, before a
run, as ``python3 - PATH... < rows.py``; the trainer imports it. Both so apply the same rules.

Two row formats:

    {"conversations": [{"from": "system|human|gpt", "value": "..."}], "system_prompt": "..."}
    {"messages": [{"role": "system|user|assistant", "content": "..."}]}

A conversation is an optional system message, then questions and answers in turn.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

FORMATS = (".jsonl", ".json")
SHOWN_PROBLEMS = 20

#: Column -> (key of the role, key of the text, role there -> role of a message).
COLUMNS: Dict[str, Tuple[str, str, Dict[str, str]]] = {
    "conversations": (
        "from",
        "value",
        {"system": "system", "human": "user", "gpt": "assistant"},
    ),
    "messages": (
        "role",
        "content",
        {"system": "system", "user": "user", "assistant": "assistant"},
    ),
}


class Row(NamedTuple):
    """One conversation, and where it was read (``line`` counts from 1)."""

    file: str
    line: int
    messages: List[Dict[str, str]]


class Problem(NamedTuple):
    """One thing that keeps a file or row from being used (``line`` 0: the file as a whole)."""

    file: str
    line: int
    found: str
    expected: str

    def __str__(self) -> str:
        return "%s:%d: found %s, expected %s" % self


class BadRow(Exception):
    """A row's problem, raised where the file and line are not known."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected


def read_rows(paths: str) -> Iterator[Union[Row, Problem]]:
    """Every row of the comma-separated files and folders, in order; bad ones as problems."""
    for path in paths.split(","):
        for file in _files(path.strip()):
            if isinstance(file, Problem):
                yield file
            else:
                yield from _read_file(file)


def _files(path: str) -> Iterator[Union[str, Problem]]:
    """A file itself, or the data files below a folder, sorted by path."""
    if os.path.isdir(path):
        unreadable: List[OSError] = []
        found = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path, onerror=unreadable.append)
            for name in names
            if name.endswith(FORMATS)
        )
        for error in unreadable:
            yield Problem(str(error.filename), 0, str(error.strerror), "a readable folder")
        if not found and not unreadable:
            yield Problem(path, 0, "a folder without data files", "*.jsonl or *.json in it")
        yield from found
    elif not os.path.exists(path):
        yield Problem(path, 0, "no such file or folder", "a .jsonl or .json file, or a folder")
    elif not path.endswith(FORMATS):
        yield Problem(path, 0, _short(os.path.basename(path)), "a .jsonl or .json file")
    else:
        yield path


def _read_file(file: str) -> Iterator[Union[Row, Problem]]:
    read = _json_values if file.endswith(".json") else _jsonl_values
    empty = True
    try:
        for line, value in read(file):
            empty = False
            try:
                if isinstance(value, BadRow):
                    raise value
                yield Row(file, line, messages_of(value))
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


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def messages_of(value: Any) -> List[Dict[str, str]]:
    """The messages of one decoded row.

    Raises BadRow when the row is not one of the two formats, or not a conversation.
    """
    if not isinstance(value, dict):
        raise BadRow("a JSON %s" % _kind(value), "a JSON object")
    columns = [column for column in COLUMNS if value.get(column) is not None]
    if len(columns) != 1:
        found = "both columns" if columns else "columns " + (", ".join(map(str, value)) or "none")
        raise BadRow(_short(found), "one column named %s" % " or ".join(COLUMNS))
    turns = value[columns[0]]
    if not isinstance(turns, list):
        raise BadRow("%s: a JSON %s" % (columns[0], _kind(turns)), "a list of turns")
    messages = [_message(columns[0], number, turn) for number, turn in enumerate(turns, start=1)]
    system = value.get("system_prompt")
    if system is not None and system != "":
        messages.insert(0, {"role": "system", "content": _text("system_prompt", system)})
    _require_conversation(messages)
    return messages


def _message(column: str, number: int, turn: Any) -> Dict[str, str]:
    role_key, text_key, roles = COLUMNS[column]
    where = "%s turn %d" % (column, number)
    if not isinstance(turn, dict):
        raise BadRow("%s: a JSON %s" % (where, _kind(turn)), "an object")
    for key in (role_key, text_key):
        if key not in turn:
            raise BadRow("%s without %r" % (where, key), "%r and %r" % (role_key, text_key))
    role = turn[role_key]
    if not isinstance(role, str) or role not in roles:
        raise BadRow("%s: %s %s" % (where, role_key, _short(repr(role))), " or ".join(roles))
    return {"role": roles[role], "content": _text(where + ": " + text_key, turn[text_key])}


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("%s: a JSON %s" % (where, _kind(value)), "text")
    if not value.strip():
        raise BadRow("%s is empty" % where, "text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow("%s has half a surrogate pair" % where, "Unicode text") from None
    return value


def _require_conversation(messages: List[Dict[str, str]]) -> None:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise BadRow("no answer (%s)" % (", ".join(roles) or "no turns"), "an answer to learn from")
    after: Optional[str] = None
    follows = {
        "system": (None,),
        "user": (None, "system", "assistant"),
        "assistant": ("user",),
    }
    for role in roles:
        if after not in follows[role]:
            raise BadRow(
                "%s %s" % (role, "after " + after if after else "as the first turn"),
                "at most one system message, then user and assistant in turn",
            )
        after = role


def _not_utf8(error: UnicodeDecodeError) -> BadRow:
    return BadRow("byte 0x%02x that is not UTF-8" % error.object[error.start], "UTF-8 text")


def _reason(error: BaseException) -> str:
    return _short(str(error)) if isinstance(error, ValueError) else "nested too deep"


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "\u2026"


def check(paths: Iterable[str]) -> Dict[str, Any]:
    """What ``python3 - PATH...`` prints: counts, and the first problems."""
    files, rows, count = set(), 0, 0
    shown: List[Problem] = []
    for item in read_rows(",".join(paths)):
        if os.path.isfile(item.file):
            files.add(item.file)
        if isinstance(item, Row):
            rows += 1
        else:
            count += 1
            if len(shown) < SHOWN_PROBLEMS:
                shown.append(item)
    return {
        "files": len(files),
        "rows": rows,
        "problems": [problem._asdict() for problem in shown],
        "problem_count": count,
    }


if __name__ == "__main__":
    # Between sentinels, because a login shell may print noise around it.
    print("ZEROFLEET<<" + json.dumps(check(sys.argv[1:])) + ">>ZEROFLEET")

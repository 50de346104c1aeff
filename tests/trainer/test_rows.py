"""trainer/rows.py: formats, and every problem named with file and line."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from trainer import rows
from trainer.formats import sample_of
from trainer.rows import Problem, Row, read_rows

ROOT = Path(__file__).parents[2]
GOOD = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def turns(*pairs: tuple[str, object]) -> dict[str, object]:
    return {"conversations": [{"from": role, "value": text} for role, text in pairs]}


def _messages(value: object) -> list[dict[str, str]]:
    return sample_of(value, "sft").messages


def test_both_formats_become_the_same_messages() -> None:
    assert _messages(GOOD) == MESSAGES
    assert _messages({"messages": MESSAGES}) == MESSAGES


def test_a_problem_of_a_whole_file_has_no_line() -> None:
    said = str(next(iter(read_rows("/no/such.jsonl"))))
    assert said.startswith("/no/such.jsonl: found no such file or folder, expected ")
    assert str(Problem("a", 7, "b", "c")) == "a:7: found b, expected c"


def test_a_system_prompt_may_be_a_turn_or_a_column() -> None:
    system = {"role": "system", "content": "s"}
    as_turn = turns(("system", "s"), ("human", "q"), ("gpt", "a"))
    assert _messages(as_turn) == [system, *MESSAGES]
    assert _messages({**GOOD, "system_prompt": "s"}) == [system, *MESSAGES]
    assert _messages({**GOOD, "system_prompt": ""}) == MESSAGES


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([1], "a JSON array"),
        ("text", "a JSON string"),
        ({"text": "x"}, "columns text (text: rows for pretrain)"),
        ({}, "columns none"),
        ({**GOOD, "messages": MESSAGES}, "columns of ShareGPT and of messages"),
        ({"conversations": "x"}, "conversations: a JSON string"),
        ({"conversations": []}, "no answer (no turns)"),
        ({"conversations": ["x"]}, "conversations turn 1: a JSON string"),
        ({"conversations": [{"from": "human"}]}, "conversations turn 1 without 'value'"),
        ({"messages": [{"content": "x"}]}, "messages turn 1 without 'role'"),
        (turns(("human", "q"), ("bot", "a")), "conversations turn 2: from 'bot'"),
        (turns(("human", "q"), ("gpt", None)), "conversations turn 2: value: a JSON null"),
        (turns(("human", " \n"), ("gpt", "a")), "conversations turn 1: value is empty"),
        (turns(("human", "q"), ("gpt", "\ud800")), "turn 2: value has half a surrogate pair"),
        (turns(("human", "q")), "no answer (user)"),
        (turns(("gpt", "a")), "assistant as the first turn"),
        (turns(("human", "q"), ("gpt", "a"), ("gpt", "b")), "assistant after assistant"),
        (turns(("human", "q"), ("human", "r"), ("gpt", "a")), "user after user"),
        ({**turns(("system", "s"), ("human", "q"), ("gpt", "a")), "system_prompt": "t"}, "system"),
        ({**GOOD, "system_prompt": 3}, "system_prompt: a JSON number"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row: object, found: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(row) + "\n" + json.dumps(GOOD))
    first, bad, last = read_rows(str(path))
    good = {"file": str(path), "messages": MESSAGES, "format": "ShareGPT"}
    assert (first, last) == (Row(line=1, **good), Row(line=4, **good))
    assert isinstance(bad, Problem)
    assert (bad.file, bad.line) == (str(path), 3)
    assert found in bad.found
    assert bad.expected


def test_bytes_that_are_not_utf8_spoil_one_line_only(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n" + b'{"x": "\xe4"}\r\n' + good)
    items = list(read_rows(str(path)))
    assert [type(item) for item in items] == [Row, Problem, Row]
    assert items[1] == Problem(str(path), 2, "byte 0xe4 that is not UTF-8", "UTF-8 text")


def test_a_json_array_knows_the_line_of_every_row(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD, {"x": 1}, GOOD], indent=1))
    items = list(read_rows(str(path)))
    text = path.read_text().splitlines()
    assert [type(item) for item in items] == [Row, Problem, Row]
    assert [text[item.line - 1].strip() for item in items] == ["{", "{", "{"]
    assert items[1].line == text.index('  "x": 1')


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD), [Row, Row]),
        (json.dumps(GOOD, indent=2), [Row]),
        ("[" + json.dumps(GOOD) + " " + json.dumps(GOOD) + "]", [Row, Problem]),
        ("[" + json.dumps(GOOD), [Row, Problem]),
        ("[" + json.dumps(GOOD) + "] x", [Row, Problem]),
        ("{", [Problem]),
        ("", [Problem]),
        ("[]", [Problem]),
    ],
)
def test_json_files_of_every_shape(text: str, kinds: list[type], tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    assert [type(item) for item in read_rows(str(path))] == kinds


def test_folders_are_read_whole_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.json", "a/deep/y.jsonl", "notes.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(GOOD))
    single = tmp_path / "single.jsonl"
    single.write_text(json.dumps(GOOD))
    read = [item.file for item in read_rows(f"{single}, {tmp_path / 'data'}")]
    names = [str(Path(file).relative_to(tmp_path)) for file in read]
    assert names == ["single.jsonl", "data/a/deep/y.jsonl", "data/a/z.json", "data/b.jsonl"]


@pytest.mark.parametrize("name", ["missing.jsonl", "folder", "table.csv"])
def test_a_path_without_data_is_a_problem(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "table.csv").write_text("a,b")
    (item,) = read_rows(str(tmp_path / name))
    assert isinstance(item, Problem)
    assert item.line == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (item,) = read_rows(str(tmp_path))
    assert isinstance(item, Problem)


def read_program() -> str:
    """The reader as provision/preflight/rows.py puts it together (not imported: trainer tests run
    without what provision needs)."""
    texts = {n: (ROOT / "trainer" / f"{n}.py").read_text() for n in ("formats", "tables", "rows")}
    start = "import sys, types; sys.modules['trainer'] = types.ModuleType('trainer')\n"
    for name in ("formats", "tables"):
        start += f"m = sys.modules['trainer.{name}'] = types.ModuleType('trainer.{name}')\n"
        start += f"exec({texts[name]!r}, m.__dict__)\n"
    return start + f"exec({texts['rows']!r})\n"


def run_alone(*paths: str, asked: str = "rows", python: str = sys.executable) -> dict[str, Any]:
    """rows.py as hosts run it: on standard input, with nothing else of ours in reach."""
    result = subprocess.run(
        [python, "-I", "-", asked, "sft", *paths],
        input=read_program().encode(),
        capture_output=True,
        check=True,
        cwd="/",
    )
    (line,) = result.stdout.decode("ascii").splitlines()
    assert line.startswith("ZEROFLEET<<")
    assert line.endswith(">>ZEROFLEET")
    answer: dict[str, Any] = json.loads(line[len("ZEROFLEET<<") : -len(">>ZEROFLEET")])
    return answer


def test_alone_it_counts_and_shows_the_first_problems(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([json.dumps(GOOD)] + ["x"] * 30))
    answer = run_alone(str(path), str(tmp_path / "missing"))
    assert {key: answer[key] for key in ("files", "rows", "problem_count")} == {
        "files": 1,
        "rows": 1,
        "problem_count": 31,
    }
    assert isinstance(answer["problems"], list)
    assert len(answer["problems"]) == rows.SHOWN_PROBLEMS
    assert answer["problems"][0]["line"] == 2
    assert set(answer["problems"][0]) == {"file", "line", "found", "expected"}


def test_alone_it_names_the_files_that_it_reads(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    datasets.Dataset.from_list([GOOD]).save_to_disk(tmp_path / "saved")
    assert len(list((tmp_path / "saved").iterdir())) == 3
    single = tmp_path / "single.jsonl"
    single.write_text(json.dumps(GOOD))
    paths = (f"{tmp_path}/saved/", str(single))
    read = [item.file for item in read_rows(",".join(paths))]
    names = [f"{tmp_path}/saved/data-00000-of-00001.arrow", str(single)]
    assert run_alone(*paths, asked="files") == {"files": dict(zip(names, read, strict=True))}
    assert "no such file" in run_alone(*paths, "/no/such", asked="files")["error"]


@pytest.mark.parametrize("name", ["formats", "tables", "rows"])
def test_the_file_is_python_3_8(name: str) -> None:
    source = (ROOT / "trainer" / f"{name}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {*sys.stdlib_module_names, "pyarrow"}


def test_the_examples_are_good_and_varied() -> None:
    items = list(read_rows(str(ROOT / "examples")))
    assert all(isinstance(item, Row) for item in items), items
    texts = ["".join(m["content"] for m in item.messages) for item in items]
    assert len(set(texts)) == len(texts) >= 240
    assert sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) >= 60
    assert sum(item.messages[0]["role"] == "system" for item in items) >= 20
    assert sum(len(item.messages) > 3 for item in items) >= 20

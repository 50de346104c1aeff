"""trainer/formats.py and tables.py: every shape of a row, against what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.formats import BadRow, Sample, sample_of
from trainer.rows import Problem, read_rows

ASK = [{"role": "user", "content": "q"}]
BOTH = [*ASK, {"role": "assistant", "content": "a"}]
SYSTEM = {"role": "system", "content": "s"}
EARLIER = [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}]


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("objective", "row", "expected"),
    [
        ("sft", {"instruction": "q", "output": "a"}, Sample(BOTH, format="Alpaca")),
        (
            "sft",
            {"instruction": "q", "input": "i", "output": "a", "system": "s",
             "history": [["q0", "a0"]]},
            Sample(
                [SYSTEM, *EARLIER, {"role": "user", "content": "q\n\ni"}, answer("a")],
                format="Alpaca",
            ),
        ),
        ("sft", {"instruction": "q", "input": "", "output": "a"}, Sample(BOTH, format="Alpaca")),
        (
            "orpo",
            {
                "system": "s", "history": [["q0", "a0"]], "question": "q",
                "response_chosen": "good", "response_rejected": "bad",
            },
            Sample([SYSTEM, *EARLIER, *ASK], "good", "bad", format="question"),
        ),
        (
            "orpo",
            {"system": "", "history": [], "question": "q", "response_chosen": "g",
             "response_rejected": "b"},
            Sample(ASK, "g", "b", format="question"),
        ),
        (
            "orpo",
            {"prompt": "q", "chosen": "good", "rejected": "bad"},
            Sample(ASK, "good", "bad", format="prompt"),
        ),
        (
            "orpo",
            {"prompt": ASK, "chosen": [answer("good")], "rejected": [answer("bad")]},
            Sample(ASK, "good", "bad", format="prompt"),
        ),
        (
            "orpo",
            {"chosen": [*ASK, answer("good")], "rejected": [*ASK, answer("bad")]},
            Sample(ASK, "good", "bad", format="implicit prompt"),
        ),
        (
            "orpo",
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
            Sample(ASK, "good", "bad", format="ShareGPT pair"),
        ),
        ("pretrain", {"text": " t ", "id": 3}, Sample([], text=" t ", format="text")),
    ],
)  # fmt: skip
def test_a_row_is_recognised_by_its_columns(objective: str, row: Any, expected: Sample) -> None:
    assert sample_of(row, objective) == expected


@pytest.mark.parametrize(
    ("objective", "row", "found"),
    [
        ("pretrain", {"instruction": "q", "output": "a"}, "(Alpaca: rows for sft)"),
        ("sft", {"prompt": "q", "chosen": "a", "rejected": "b"}, "(prompt: rows for orpo)"),
        # An SFT run must not train on a preference's prompt alone.
        ("sft", {"conversations": [], "chosen": {}, "rejected": {}}, "rows for orpo"),
        ("orpo", {"messages": BOTH}, "(messages: rows for sft)"),
        ("sft", {"instruction": "q", "output": ""}, "output is empty"),
        ("sft", {"instruction": "q", "output": "a", "history": [["q0"]]}, "history 1: no pair"),
        ("orpo", {"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
        ("orpo", {"prompt": "q", "chosen": "a", "rejected": " "}, "rejected is empty"),
        ("orpo", {"prompt": BOTH, "chosen": "a", "rejected": "b"}, "ends with assistant"),
        ("orpo", {"prompt": "q", "chosen": ASK, "rejected": "b"}, "chosen: said by the user"),
        ("orpo", {"chosen": BOTH, "rejected": [SYSTEM, *BOTH]}, "differ before their end"),
        ("orpo", {"chosen": "a", "rejected": "b"}, "chosen: a JSON string"),
        ("pretrain", {"text": 1}, "text: a JSON number"),
    ],
)
def test_a_row_that_is_none_says_why(objective: str, row: Any, found: str) -> None:
    with pytest.raises(BadRow) as caught:
        sample_of(row, objective)
    assert found in caught.value.found
    assert caught.value.expected


def read(path: Path, objective: str = "sft") -> list[Any]:
    return list(read_rows(str(path), objective))


def test_csv_knows_the_line_of_a_row_whose_cells_span_several(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text(
        'instruction,output,history\n"two\nlines",a,\nq,a,"[[""q0"", ""a0""]]"\n\nq\nq,,\nq,a,[[',
    )
    first, second, short, empty, broken = read(path)
    assert (first.line, first.messages[0]["content"]) == (2, "two\nlines")
    assert (second.line, len(second.messages)) == (4, 4)
    assert (short.line, short.found) == (6, "1 cells")
    assert (empty.line, empty.found) == (7, "columns instruction")
    assert (broken.line, broken.found) == (8, "history: no JSON")


def test_csv_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('instruction,output\nq,a\nq,"a')
    good, bad = read(path)
    assert good.line == 2
    assert (bad.line, "no CSV from here" in bad.found) == (3, True)


def test_parquet_and_arrow(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    table = pa.Table.from_pylist([{"messages": BOTH, "n": 1}, {"messages": ASK, "n": 2}])
    parquet.write_table(table, tmp_path / "a.parquet")
    with (
        pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    *rows, broken = read(tmp_path)
    assert [(type(r) is Problem, r.line) for r in rows] == [(False, 1), (True, 2)] * 2
    assert rows[0].messages == rows[2].messages == BOTH
    assert broken.found.startswith("unreadable from here")


def test_text_files_are_for_pretraining_a_line_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  two\n\xff\n")
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\n')
    one, two, bad, three = read(tmp_path, "pretrain")
    assert [(r.line, r.text) for r in (one, two, three)] == [(1, "one"), (3, "  two"), (1, "three")]
    assert bad.line == 4
    assert [type(item) for item in read(tmp_path)] == [Problem]


def test_a_file_that_changes_its_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"messages": BOTH}) + "\n" + json.dumps({"instruction": "q", "output": "a"})
    )
    (tmp_path / "b.jsonl").write_text(json.dumps({"instruction": "q", "output": "a"}))
    first, changed, other = read(tmp_path)
    assert changed == Problem(first.file, 2, "a row of Alpaca", "messages, as before")
    assert other.format == "Alpaca"


def test_hub_data_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (missing,) = list(read_rows("hf://datasets/me/mine"))
    assert "nothing of it in this host's hub cache" in missing.found
    assert missing.expected.endswith("hf download --repo-type dataset me/mine")
    root = tmp_path / "datasets--me--mine"
    for name, text in (("refs/main", "c0ffee"), ("snapshots/c0ffee/train/a.jsonl", "")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text or json.dumps({"messages": BOTH}))
    for name in ("me/mine", "me/mine@c0ffee", "me/mine/train/a.jsonl"):
        (row,) = list(read_rows("hf://datasets/" + name))
        assert row.messages == BOTH

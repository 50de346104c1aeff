"""Folders, model and data of a run, judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.findings import Judge, Level, merged
from provision.preflight.storage import (
    estimate,
    judge_bytes,
    judge_folders,
    judge_model,
    judge_rows,
)

SEVEN_B = {"bytes": 14e9, "dtype": "bfloat16", "hidden_size": 4096}
FULL = {"use_peft": False}
JUDGE = Judge(host="node1")


def folder(**changes):
    healthy = {"path": "/out", "nearest": "/", "free": 9e9, "inodes": 10**6}
    return {"folders": [{**healthy, **changes}]}


def test_full_checkpoints_of_7b_on_four_hosts(wanted):
    wanted = replace(wanted, flags=FULL)
    # fp32 weights and two moments of a quarter of the parameters; node 0 has the weights twice.
    assert estimate(wanted, "node2", SEVEN_B).each == 7e9 * 12 / 4
    assert estimate(wanted, "node1", SEVEN_B).each == 7e9 * 12 / 4 + 7e9 * 4
    assert estimate(wanted, "node2", SEVEN_B).kept == 4
    assert estimate(replace(wanted, zero=3), "node2", SEVEN_B).each == 7e9 * 14 / 4


def test_a_lora_checkpoint_is_small(wanted):
    by_set = estimate(replace(wanted, flags={"use_peft": "false"}), "node1", SEVEN_B)
    assert by_set == estimate(replace(wanted, flags=FULL), "node1", SEVEN_B)
    small = estimate(replace(wanted, flags={"lora_rank": 8}), "node1", SEVEN_B)
    assert small.each < 7e9 * 12 / 100


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ({"save_strategy": "no"}, 1),
        ({"save_strategy": False}, 1),  # a bare no in YAML
        ({"save_total_limit": 5}, 7),
        ({"save_total_limit": None}, 4),
    ],
)
def test_how_many_checkpoints_lie_there_at_once(wanted, flags, kept):
    assert estimate(replace(wanted, flags=flags), "node1", SEVEN_B).kept == kept


def test_room_for_the_checkpoints_of_this_run(wanted):
    wanted = replace(wanted, flags=FULL)
    (finding,) = judge_folders(JUDGE, wanted, {**folder(free=50e9), "model": SEVEN_B})
    assert str(finding) == (
        "node1: output: found 50.0 GB free on /, expected /out writable, 196.0 GB free or more, "
        "4 checkpoints of 49.0 GB: free space there (df -h /), or choose another folder with "
        "--output"
    )
    (finding,) = judge_folders(JUDGE, wanted, {**folder(free=200e9), "model": SEVEN_B})
    assert finding.level is Level.OK


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"free": 1000}, "1.0 kB free on /"),
        ({"inodes": 3}, "/: 3 inodes left"),
        ({"error": "Read-only file system"}, "/: Read-only file system"),
        ({"free": 0, "error": "Read-only file system"}, "/: Read-only file system"),
        ({"free": 0, "error": "No space left on device", "full": True}, "0 bytes free on /"),
        ({"error": "Disk quota exceeded", "full": True}, "/: Disk quota exceeded"),
    ],
)
def test_an_output_that_a_run_would_fail_on(wanted, changes, found):
    (finding,) = judge_folders(JUDGE, wanted, folder(**changes))
    assert finding.level is Level.ERROR
    assert finding.found == found
    assert finding.remedy


def test_a_file_system_without_a_count_of_inodes_has_no_limit(wanted):
    assert judge_folders(JUDGE, wanted, folder(inodes=None))[0].level is Level.OK


def test_a_folder_that_was_not_answered_for_is_unknown(wanted):
    assert judge_folders(JUDGE, wanted, {})[0].level is Level.UNKNOWN


@pytest.mark.parametrize(
    ("answer", "level", "found"),
    [
        ({"bytes": 2e6}, Level.OK, "2.0 MB of weights"),
        ({"error": "no such folder"}, Level.ERROR, "no such folder"),
        ({"hub": True, "cached": False}, Level.ERROR, "not in this host's hub cache"),
        ({}, Level.ERROR, "no answer"),
    ],
)
def test_a_model(answer, level, found):
    (finding,) = judge_model(JUDGE, "/m", answer)
    assert finding.level is level
    assert found in finding.found


def test_a_bad_row_is_named_with_file_and_line():
    problem = {"file": "d.jsonl", "line": 17, "found": "no JSON", "expected": "one object a line"}
    answer = {"problems": [problem], "problem_count": 23, "rows": 1}
    first, rest = judge_rows(JUDGE, "/d", answer, "/home/ml")
    assert str(first).startswith("node1: data: found d.jsonl:17: no JSON, expected one object")
    assert rest.found == "22 more bad rows"
    assert first.remedy == "correct or remove that row"
    whole = {"problems": [{**problem, "line": 0}], "problem_count": 1}
    (whole,) = judge_rows(JUDGE, "/d", whole, "/home/ml")
    assert (whole.found, whole.remedy) == ("d.jsonl: no JSON", "correct --data, or what lies there")


def test_a_bad_row_of_the_same_file_is_named_once_wherever_homes_lie():
    problem = {"line": 17, "found": "no JSON", "expected": "one object a line"}
    findings = []
    for host, home in (("node1", "/home/ml"), ("node2", "/data/home/ml/")):
        answer = {"problems": [{**problem, "file": f"{home}/d.jsonl".replace("//", "/")}]}
        answer["problem_count"] = 1
        findings += judge_rows(Judge(host=host), "~/d.jsonl", answer, home)
    ((hosts, finding),) = merged(findings)
    assert (hosts, finding.found) == ("node1,node2", "~/d.jsonl:17: no JSON")


def test_no_row_at_all_is_an_error_and_no_answer_unknown():
    none = {"rows": 0, "files": 1, "problems": [], "problem_count": 0}
    assert judge_rows(JUDGE, "/d", none, "/h")[0].level is Level.ERROR
    assert judge_rows(JUDGE, "/d", {"error": "killed"}, "/h")[0].level is Level.UNKNOWN


def digest(sha, **files):
    return {"sha256": sha * 32, "files": files, "count": len(files), "bytes": 100}


def test_other_bytes_are_told_of_the_odd_one_out_with_the_file():
    same = digest("aa", config="1", weights="2")
    odd = digest("bb", config="1", weights="3")
    found = judge_bytes("model", {"node1": same, "node2": odd, "node3": same}, "/m")
    assert found["node1"] == found["node3"] == []
    (finding,) = found["node2"]
    assert str(finding).startswith(
        "node2: model bytes: found sha256 bbbbbbbbbbbb… (2 files, 100 bytes), "
        "expected aaaaaaaaaaaa…, as on 2 hosts: it is weights: copy /m anew"
    )


def test_two_hosts_that_differ_are_both_named():
    found = judge_bytes("data", {"node1": digest("aa", d="1"), "node2": digest("bb")}, "/d")
    assert [f.level for each in found.values() for f in each] == [Level.ERROR, Level.ERROR]


def test_a_file_that_is_missing_is_said_to_be():
    two = {"node1": digest("aa", a="1", b="1"), "node2": digest("bb", a="1")}
    found = judge_bytes("data", {**two, "node3": two["node1"]}, "/d")
    assert "b, which is missing" in found["node2"][0].remedy


def test_what_was_pushed_and_rotted_is_told_by_its_own_digest_and_is_no_measure_for_others():
    rotten = {**digest("bb", config="1", weights="3"), "rotten": ["config", "weights"]}
    digests = {"node1": rotten, "node2": digest("aa", config="1", weights="2")}
    found = judge_bytes("model", digests, "~/.zerofleet/store/aa/a model")
    assert [f.level for f in found["node2"]] == [Level.OK]
    assert [str(f) for f in found["node1"]] == [
        "node1: model bytes: found config, and 1 more: not the bytes that were pushed, expected "
        "what its digest says: push it once more from where it is whole: invoke push PATH --check"
    ]
    assert judge_bytes("data", {"node1": rotten}, "/d")["node1"][0].level is Level.ERROR


def test_the_same_bytes_are_ok():
    found = judge_bytes("data", {"node1": digest("aa"), "node2": digest("aa")}, "/d")
    assert {f.level for each in found.values() for f in each} == {Level.OK}

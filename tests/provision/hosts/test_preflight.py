"""Preflight: what the hosts answered, judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.errors import HostError
from provision.findings import Level
from provision.hosts.preflight import evaluate
from provision.hosts.ready import Ready, Wanted

WANTED = Wanted(
    slots={"node1": 1, "node2": 1},
    master_addr="10.0.0.1",
    master_port=29500,
    accelerator="cpu",
    lock="abc",
    model="/models/m",
    data="/data/d.jsonl",
    output="/out",
)
PATHS = {"output": {"path": "/out", "nearest": "/", "free": 9e9}, "model": {"bytes": 1000}}
ROWS = {"files": 1, "rows": 240, "problems": [], "problem_count": 0}
DIAL = {"resolved": ["10.0.0.1"], "seconds": 0.001}
BOTH = ("node1", "node2")
READY = Ready(
    paths=dict.fromkeys(BOTH, PATHS),
    rows=dict.fromkeys(BOTH, ROWS),
    listen={"came": 2},
    dials=dict.fromkeys(BOTH, DIAL),
)
GPU = {
    "index": "0", "name": "NVIDIA A100", "compute_cap": "8.0", "memory_total": "81920",
    "memory_used": "3", "uuid": "GPU-1", "driver_version": "580.1",
}  # fmt: skip


@pytest.fixture
def facts(make_facts):
    return {host: make_facts(host, environment={"lock": "abc"}) for host in BOTH}


def failing(wanted, facts, ready):
    return [str(f) for f in evaluate(wanted, facts, ready).failing]


def test_a_healthy_fleet_has_no_finding_but_ok(facts):
    assert {f.level for f in evaluate(WANTED, facts, READY).findings} == {Level.OK}


def test_an_environment_that_is_not_the_deployed_one(facts, make_facts):
    facts["node2"] = make_facts("node2", environment={"lock": "old"})
    assert failing(WANTED, facts, READY) == [
        "node2: environment: found old, expected abc (this wheel and this lock): run: invoke deploy"
    ]


@pytest.mark.parametrize(
    ("paths", "line"),
    [
        (
            {**PATHS, "output": {"path": "/o", "nearest": "/o", "error": "Read-only file system"}},
            "node2: output: found /o: Read-only file system, expected /o to be writable: "
            "choose another folder with --output",
        ),
        (
            {**PATHS, "output": {"path": "/o", "nearest": "/", "free": 1000}},
            "found 0.0 GB free, expected /o writable, 1 GiB free or more",
        ),
        ({**PATHS, "model": {"error": "no such folder"}}, "model: found no such folder"),
        ({**PATHS, "model": {"hub": True, "cached": False}}, "not in this host's hub cache"),
    ],
)
def test_paths_that_a_run_would_fail_on(facts, paths, line):
    (found,) = failing(WANTED, facts, replace(READY, paths={"node1": PATHS, "node2": paths}))
    assert line in found


def test_a_model_in_the_hub_cache_is_at_hand(facts):
    cached = {**PATHS, "model": {"hub": True, "cached": True}}
    assert not failing(WANTED, facts, replace(READY, paths=dict.fromkeys(BOTH, cached)))


def test_a_bad_row_is_named_with_file_and_line(facts):
    problem = {"file": "d.jsonl", "line": 17, "found": "no JSON", "expected": "one object a line"}
    bad = {**ROWS, "problems": [problem], "problem_count": 23}
    lines = failing(WANTED, facts, replace(READY, rows={"node1": ROWS, "node2": bad}))
    assert "node2: data: found d.jsonl:17: no JSON, expected one object a line" in lines[0]
    assert "22 more bad rows" in lines[1]


def test_no_row_at_all_is_an_error(facts):
    none = {**ROWS, "rows": 0}
    assert len(failing(WANTED, facts, replace(READY, rows=dict.fromkeys(BOTH, none)))) == 2


def test_an_occupied_port_is_one_finding_of_node_0(facts):
    ready = replace(READY, listen={"error": "in use by pid 7 (python3)"}, dials={})
    assert failing(WANTED, facts, ready) == [
        "node1: master port: found 29500 in use by pid 7 (python3), expected 29500 free: "
        "stop it, or choose another with --master-port"
    ]


def test_a_closed_port_is_a_finding_of_the_host_that_cannot_reach_it(facts):
    ready = replace(READY, dials={"node1": DIAL, "node2": {"error": "no answer in 5 s"}})
    (line,) = failing(WANTED, facts, ready)
    assert line.startswith("node2: master port: found no answer in 5 s, expected 10.0.0.1:29500")


def test_what_a_host_did_not_answer_is_unknown_and_fails(facts):
    error = HostError("node2: answer", found="noise", expected="an answer", remedy="again")
    ready = Ready(paths={}, rows=dict.fromkeys(BOTH, error), listen={}, dials={})
    report = evaluate(WANTED, facts, ready)
    assert not report.ok
    assert {f.level for f in report.failing} >= {Level.UNKNOWN}


@pytest.mark.parametrize(
    ("gpus", "level"),
    [
        ([GPU] * 8, Level.OK),
        ([GPU] * 7, Level.ERROR),
        ({"unknown": "nvidia-smi: exit 9"}, Level.UNKNOWN),
        ({"absent": True}, Level.ERROR),
    ],
)
def test_slots_need_gpus(make_facts, gpus, level):
    facts = {"node1": make_facts("node1", environment={"lock": "abc"}, gpus=gpus)}
    wanted = replace(WANTED, slots={"node1": 8}, accelerator="cuda")
    found = evaluate(wanted, facts, READY).findings
    assert next(f for f in found if f.subject == "gpus").level is level


def test_a_gpu_that_is_in_use_is_a_warning(make_facts):
    busy = [{**GPU, "memory_used": "40000"}]
    facts = {"node1": make_facts("node1", environment={"lock": "abc"}, gpus=busy)}
    report = evaluate(replace(WANTED, slots={"node1": 1}, accelerator="cuda"), facts, READY)
    assert report.ok
    assert any(f.level is Level.WARN and "40000 MiB" in f.found for f in report.findings)

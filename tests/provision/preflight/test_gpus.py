"""The GPUs of a run, judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.findings import Judge, Level
from provision.preflight.gpus import judge_gpus

A100 = {
    "index": "0", "name": "NVIDIA A100", "compute_cap": "8.0", "memory_total": "81920",
    "memory_used": "3", "uuid": "GPU-1",
}  # fmt: skip
V100 = {**A100, "name": "Tesla V100", "compute_cap": "7.0"}


@pytest.fixture
def judged(wanted, make_facts):
    def judge(gpus, accelerator="cuda", flags=None, **facts):
        run = replace(wanted, slots={"node1": 8}, accelerator=accelerator, flags=flags or {})
        host = make_facts("node1", gpus=gpus, **facts)
        return judge_gpus(Judge(host="node1"), run, host)

    return judge


def above(findings):
    return [f"{f.level}: {f}" for f in findings if f.level is not Level.OK]


def test_enough_idle_gpus(judged):
    assert above(judged([A100] * 8)) == []


@pytest.mark.parametrize(
    ("gpus", "line"),
    [
        ([A100] * 7, "error: node1: gpus: found 7, expected 8 or more"),
        ({"unknown": "Driver/library version mismatch"}, "unknown: node1: gpus: found unknown ("),
        ({"absent": True}, "error: node1: gpus: found 0"),
    ],
)
def test_slots_need_gpus(judged, gpus, line):
    assert above(judged(gpus))[0].startswith(line)


def test_a_gpu_in_use_names_who_uses_it(judged):
    busy = [{**A100, "memory_used": "40000"}, *[{**A100, "uuid": "x"}] * 7]
    processes = [{"gpu": "GPU-1", "pid": 4711, "name": "python", "memory": "39000"}]
    (line,) = above(judged(busy, gpu_processes=processes))
    assert line == (
        "error: node1: gpu in use: found 40000 MiB in use on GPU 0: pid 4711 (python, 39000 MiB), "
        "expected an idle GPU: something else runs there: ps -o user,etime,args -p 4711"
    )


def test_only_the_gpus_that_the_run_takes_must_be_idle(judged):
    assert above(judged([A100] * 8 + [{**A100, "memory_used": "40000"}])) == []


def test_the_gpus_that_were_chosen_are_judged_and_no_others(wanted, make_facts):
    gpus = [{**A100, "index": str(index), "uuid": f"GPU-{index}"} for index in range(4)]
    gpus[0]["memory_used"] = gpus[3]["memory_used"] = "40000"
    gpus[1] |= {"name": "Tesla V100", "compute_cap": "7.0"}
    run = replace(wanted, slots={"node1": 2}, accelerator="cuda", devices={"node1": (2, 3)})
    (line,) = above(judge_gpus(Judge(host="node1"), run, make_facts("node1", gpus=gpus)))
    assert "40000 MiB in use on GPU 3" in line
    (line,) = above(judge_gpus(Judge(host="node1"), run, make_facts("node1", gpus=gpus[:3])))
    assert line.startswith("error: node1: gpus: found 3, expected GPU 2, 3")


def test_bf16_and_flash_attention_need_their_compute_capability(judged):
    (line,) = above(judged([V100] * 8))
    assert "bf16: found Tesla V100 (compute capability 7.0), expected 8.0 or later" in line
    assert "--set bf16=false" in line
    assert above(judged([V100] * 8, flags={"bf16": "false"})) == []
    flash = {"bf16": False, "attn_implementation": "flash_attention_3"}
    assert "flash_attention_3" in above(judged([A100] * 8, flags=flash))[0]
    assert above(judged([V100] * 8, flags={"attn_implementation": "sdpa", "bf16": False})) == []


def test_a_capability_that_an_old_driver_does_not_tell_is_unknown(judged):
    (line,) = above(judged([{**A100, "compute_cap": None}] * 8))
    assert line.startswith("unknown: node1: bf16")


def test_flash_attention_on_the_cpu(judged):
    flags = {"attn_implementation": "flash_attention_2"}
    (line,) = above(judged({"absent": True}, accelerator="cpu", flags=flags))
    assert "attention: found flash_attention_2" in line
    assert above(judged({"absent": True}, accelerator="cpu")) == []


def test_faults_of_the_hardware_are_a_warning_those_of_programs_are_not(judged):
    xids = [{"pci": "0000:01:00", "xid": 31, "text": ""}, {"pci": "0000:02:00", "xid": 79}]
    (line,) = above(judged([A100] * 8, gpu_xid=xids))
    assert line.startswith("warn: node1: gpu faults: found 1 since boot, the last: Xid 79")
    assert above(judged([A100] * 8, gpu_xid=xids[:1])) == []

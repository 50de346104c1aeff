"""advise.py, asked.py, judge.py: what fits, what is recommended, and what changes least."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.findings import Level
from provision.hosts.facts import Fact, HostFacts
from provision.memory.advise import Room, advise, flags_of, judge_option, smallest_change
from provision.memory.asked import make_asked, on_hosts, room_from_flags, room_of
from provision.memory.judge import RunMemory, after_failure, compare_peaks, plan_run, read_peaks
from provision.memory.known import KNOWN
from provision.memory.read import read_model
from provision.memory.spec import MemorySpec
from provision.memory.table import headline, part_table, stage_table
from provision.preflight.ready import Ready, Wanted
from provision.settings import make_settings

GIB = 1 << 30


def spec(name: str = "qwen3-8b", **changes: Any) -> MemorySpec:
    return MemorySpec(**{"model": read_model(name), "method": "full", "gpus": 8, **changes})


def room(gpu: float, host: float = 2000) -> Room:
    return Room(gpu=int(gpu * 1e9), host=int(host * 1e9))


def test_by_size_as_the_guides_ask_but_computed() -> None:
    """≤ 13B, ≈ 32B and ≥ 65B, full fine-tuning on 8 GPUs of 80 GB with 2 TB of host memory."""
    best = {}
    for name in ("7b", "32b", "65b"):
        found = advise(spec(name), room(85.0)).recommended
        assert found is not None
        best[name] = (found.spec.zero, found.spec.offload)
    assert best == {"7b": (1, "none"), "32b": (3, "none"), "65b": (3, "all")}


def test_what_does_not_fit_is_changed_as_little_as_possible() -> None:
    asked = spec(zero=2, batch=8, seq=4096, checkpointing=False)
    need = judge_option(asked.with_(batch=4), room(1)).estimate.peak.total
    changed = smallest_change(asked, Room(gpu=need, host=int(1e12)))
    assert changed == asked.with_(batch=4, accum=16)
    flags = "--set per_device_train_batch_size=4 --set gradient_accumulation_steps=16"
    assert flags_of(asked, changed) == flags


@pytest.mark.parametrize(
    ("gpu", "host", "flags"),
    [
        (30, 2000, "--zero 3"),
        (12, 2000, "--zero 3 --offload all"),
        (12, 60, "--zero 3 --set use_peft=true"),
    ],
)
def test_the_order_is_stage_then_offload_then_lora(gpu: float, host: float, flags: str) -> None:
    found = advise(spec(zero=1), room(gpu, host))
    assert found.asked.fits is False
    assert found.change is not None
    assert flags_of(found.asked.spec, found.change) == flags
    assert flags in found.text


def test_nothing_fits() -> None:
    found = advise(spec("70b"), room(2, 10))
    assert found.change is None
    assert found.recommended is None
    assert "more or larger GPUs" in found.text


def test_unknown_room_is_never_ok() -> None:
    found = advise(spec(), Room())
    assert found.asked.fits is None
    assert found.recommended is None
    assert "not known" in found.text
    away = judge_option(spec(zero=3, offload="all"), Room(gpu=int(80e9)))
    assert away.fits is None  # offloading to a host whose memory nobody knows


def test_a_faster_stage_that_fits_is_named_but_1_and_2_are_alike() -> None:
    assert "ZeRO-1 fits too" in advise(spec("0.6b", zero=3), room(80)).text
    assert "fits too" not in advise(spec("0.6b", zero=2), room(80)).text


def test_json_and_tables_hold_every_stage() -> None:
    found = advise(spec(), room(80))
    answer = found.as_json()
    assert {"per_gpu", "per_host", "fits", "advice", "options"} <= set(answer)
    assert len(found.options) == 7
    columns, rows = stage_table(found)
    assert len(rows) == 7
    assert {len(row) for row in rows} == {len(columns)}
    columns, rows = part_table(found)
    assert {len(row) for row in rows} == {len(columns)}
    assert "8,190,735,360" in headline(found)


def settings(**flags: Any) -> Any:
    return make_settings({}, flags, Path("/nowhere"))


def test_flags_go_over_the_recipe() -> None:
    model = read_model("8b")
    recipe = {"use_peft": True, "model_max_length": 512}
    found = make_asked(settings(method="full", seq="1024", gpus="4", nodes="2"), model, recipe)
    assert (found.method, found.seq, found.ranks) == ("full", 1024, 8)
    assert make_asked(settings(), model, recipe).method == "lora"
    assert make_asked(settings(checkpointing="false"), model, {}).checkpointing is False


@pytest.mark.parametrize(
    "flags", [{"seq": "long"}, {"checkpointing": "maybe"}, {"gpus": "8.5"}, {"seq": "99999999"}]
)
def test_a_flag_that_cannot_be_read(flags: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=rf"^--{next(iter(flags))}"):
        make_asked(settings(**flags), read_model("8b"), {})


def test_room_in_gb() -> None:
    assert room_from_flags(settings(gpu_memory="80", host_memory="0.5")) == room(80, 0.5)
    assert room_from_flags(settings()) == Room()
    with pytest.raises(ConfigError, match="--gpu-memory"):
        room_from_flags(settings(gpu_memory="80GB"))


def facts(name: str, *, gpus: int = 8, mib: str = "81559", free: int = 900 * GIB) -> HostFacts:
    each = {"memory_total": mib, "memory_used": "0"}
    return HostFacts(
        host=name,
        facts={
            "gpus": Fact(value=[each] * gpus or None),
            "memory": Fact(value={"available": free, "total": free}),
            "memory.limit": Fact(),
        },
    )


def test_the_smallest_gpu_and_host_count() -> None:
    two = {"a": facts("a"), "b": facts("b", mib="40960", free=100 * GIB)}
    found = room_of(two, {"a": 8, "b": 8})
    assert found == Room(gpu=40960 << 20, host=100 * GIB)
    limit = Fact(value={"limit": 50 * GIB, "used": 10 * GIB})
    two["b"] = HostFacts(host="b", facts={**two["b"].facts, "memory.limit": limit})
    assert room_of(two, {"a": 8, "b": 8}).host == 40 * GIB
    two["b"] = facts("b", mib="[N/A]")
    assert room_of(two, {"a": 8, "b": 8}).gpu is None
    gpus = Fact(value=[{"index": "0", "memory_total": "1"}, {"index": "1", "memory_total": "2"}])
    mixed = {"a": HostFacts(host="a", facts={**two["a"].facts, "gpus": gpus})}
    assert room_of(mixed, {"a": 1}, {"a": (1,)}).gpu == 2 << 20
    assert on_hosts(spec(), {"a": 8, "b": 4}).ranks == 8


CONFIG = dict(KNOWN["qwen3-8b"][1])
FULL = {"use_peft": False}


def plan(*, auto: bool = False, config: Any = CONFIG, gpus: str = "81559", **changes: Any) -> Any:
    wanted = Wanted(
        slots={"a": 8}, addresses={"a": None}, master_addr="a", master_port=1, accelerator="cuda",
        lock="x", model="~/models/q", flags=FULL,
    )  # fmt: skip
    found = Ready(hosts={"a": {"model": {"config": config} if config else {}}})
    return plan_run(replace(wanted, **changes), {"a": facts("a", mib=gpus)}, found, auto=auto)


def level(memory: RunMemory) -> Level:
    return memory.report.findings[0].level


def test_a_run_that_fits_that_is_tight_and_that_cannot() -> None:
    assert level(plan(zero=3)) is Level.OK
    need = plan(zero=3).advice.asked.estimate.peak.total
    tight = plan(zero=3, gpus=str(int(need / 0.95) >> 20))
    assert level(tight) is Level.WARN
    refused = plan(zero=1, gpus="24576")
    assert level(refused) is Level.ERROR
    assert "--zero" in refused.report.findings[0].remedy
    assert not refused.report.ok


def test_auto_takes_the_fastest_that_fits() -> None:
    assert (plan(auto=True).zero, plan(auto=True).offload) == (1, "none")
    assert advise(spec(zero=3), room(80), auto=True).asked.spec.zero == 1
    small = plan(auto=True, gpus="12288")
    assert (small.zero, small.offload) == (3, "all")


def test_only_a_stage_that_was_asked_for_is_marked_so() -> None:
    marks = [row[0] for row in stage_table(advise(spec(zero=3), room(80)))[1]]
    assert [mark for mark in marks if "(" in mark] == ["1 (best)", "3 (asked)"]
    for size in (80, 1):  # where some fit, and where none does
        found = advise(spec(zero=3), room(size), auto=True)
        assert not [row[0] for row in stage_table(found)[1] if "asked" in row[0]]


def test_a_model_that_cannot_be_planned_is_said_and_not_refused() -> None:
    for config in ({**CONFIG, "model_type": "mamba"}, None):
        found = plan(config=config)
        assert level(found) is Level.WARN
        assert found.as_json() is None
        with pytest.raises(ConfigError, match="--zero auto"):
            plan(config=config, auto=True)


def test_measured_peaks_stand_beside_the_plan(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert read_peaks(metrics) == ()
    metrics.write_text(
        '{"event": "begin"}\n{"event": "end", "ranks": [{"rank": 0, "peak_reserved_bytes": 5, '
        '"peak_host_bytes": 7}, {"rank": 1, "peak_reserved_bytes": null, "peak_host_bytes": 9}]}\n'
    )
    rows = compare_peaks(plan(), read_peaks(metrics))
    assert [(row["rank"], row["where"], row["measured"]) for row in rows] == [
        (0, "gpu", 5),
        (1, "host", 9),
    ]
    tensors = max(moment.tensors for moment in plan().advice.asked.estimate.moments)
    assert tensors < rows[0]["planned"] < 1.1 * tensors
    away = compare_peaks(plan(zero=3, offload="all"), read_peaks(metrics))
    assert away[1]["planned"] > 20 * 8e9 / 8  # offloaded states are this process's too


def test_an_out_of_memory_failure_is_told_what_to_change() -> None:
    lines = ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"]
    told = after_failure(plan(zero=1, gpus="999999"), "exit code 1", lines)
    assert told is not None
    assert "--zero 2" in told
    assert after_failure(plan(), "exit code 1", ["KeyError: 'x'"]) is None
    killed = "killed by signal 9; meanwhile the kernel ended 1 process(es) here for want of memory"
    said = "kernel: Memory cgroup out of memory: Killed process 28625 (python3)"  # no GPU's
    told = after_failure(plan(zero=3, offload="all"), killed, [said])
    assert told is not None
    assert "GB a host, which was too little" in told
    assert after_failure(RunMemory(zero=2, offload="none"), "x", lines) is None

"""A run against its hosts: may it start, which stage is taken, what became of the plan."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.findings import Judge, Level, Report
from provision.hosts.facts import HostFacts
from provision.memory.advise import (
    GB,
    TIGHT,
    Advice,
    Option,
    Room,
    advise,
    flags_of,
    smallest_change,
)  # fmt: skip
from provision.memory.asked import on_hosts, read_zero_config, room_of
from provision.memory.estimate import FRAGMENTATION, PROCESS
from provision.memory.model import parse_model
from provision.memory.spec import MemorySpec, spec_from_flags
from provision.preflight.ready import Ready, Wanted

SUBJECT = "memory plan"
#: torch's and CUDA's own words for the GPU, which a cgroup's limit has, too; the supervisor's for a
#: process that the kernel ended.
_GPU_FULL = re.compile(r"(?<!cgroup )out of memory|OutOfMemoryError")
_HOST_FULL = re.compile("want of memory")


@dataclass(frozen=True, kw_only=True)
class RunMemory:
    """A run's plan. ``advice`` is None where nothing could be planned; ``report`` says why."""

    zero: int
    offload: str
    advice: Advice | None = None
    room: Room = field(default_factory=Room)
    report: Report = field(default_factory=Report)

    def as_json(self) -> dict[str, object] | None:
        """The ``memory`` key of ``--json``."""
        if self.advice is None:
            return None
        return {"zero": self.zero, "offload": self.offload, **self.advice.as_json()}


def plan_run(
    wanted: Wanted, facts: Mapping[str, HostFacts], ready: Ready, *, auto: bool
) -> RunMemory:
    """Plan the run that is wanted, on the hosts as they are. ``auto``: choose the stage.

    Raises ConfigError for what can't be honoured, and for ``auto`` where nothing can be planned.
    """
    kept = RunMemory(zero=wanted.zero, offload=wanted.offload)
    answer = ready.hosts.get(wanted.node0)
    found = answer.get("model") if isinstance(answer, Mapping) else None
    config = found.get("config") if isinstance(found, Mapping) else None
    if not config:
        return _unplanned(kept, wanted, "its config.json could not be read", auto=auto)
    try:
        model = parse_model(config, Path(wanted.model).name, f"{wanted.model}/config.json")
        spec = MemorySpec(model=model, zero=wanted.zero, offload=wanted.offload)
        spec = spec_from_flags(spec, wanted.flags, read_zero_config(wanted.zero, wanted.offload))
        # Rows are cut at model_max_length, but need not be that long: no reason to refuse a run.
        spec = spec.with_(accelerator=wanted.accelerator, seq=min(spec.seq, model.positions))
        spec = on_hosts(spec, wanted.slots)
    except ConfigError as error:
        return _unplanned(kept, wanted, f"{error.what}: found {error.found}", auto=auto)
    room = room_of(facts, wanted.slots, wanted.devices)
    advice = advise(spec, room)
    # Where nothing is known to fit, what was asked for stands, and is judged.
    option = (advice.recommended if auto else None) or advice.asked
    return _judged(advice, option, room, wanted)


def _unplanned(kept: RunMemory, wanted: Wanted, why: str, *, auto: bool) -> RunMemory:
    """No plan is no reason to refuse a run, but one to say so; ``auto`` has nothing to go by."""
    remedy = "choose a stage with --zero"
    if auto:
        raise ConfigError("--zero auto", found=why, expected="a known model", remedy=remedy)
    if not wanted.model:
        return kept
    expected = "a model whose memory can be planned"
    finding = Judge(host=wanted.node0)(SUBJECT, Level.WARN, why, expected, "watch the first steps")
    return RunMemory(**{**kept.__dict__, "report": Report(findings=(finding,))})


def _judged(advice: Advice, option: Option, room: Room, wanted: Wanted) -> RunMemory:
    used, peak = option.used, option.estimate.peak.total
    level = Level.OK
    if used is not None and used > TIGHT:
        level = Level.WARN
    if option.fits is False and wanted.accelerator != "cpu":
        level = Level.ERROR
    share = "" if used is None else f", {used:.0%} of what is there"
    found = (
        f"{option.name}: {peak / GB:.1f} GB a GPU, {option.estimate.host_total / GB:.1f} GB a host"
        f"{share}"
    )
    if wanted.accelerator == "cpu":
        found = f"{option.name}: {option.estimate.host_total / GB:.1f} GB a host{share}"
    finding = Judge(host=wanted.node0)(SUBJECT, level, found, "all of it to fit", advice.text)
    spec = option.spec
    return RunMemory(
        zero=spec.zero,
        offload=spec.offload,
        advice=advice,
        room=room,
        report=Report(findings=(finding,)),
    )


def read_peaks(metrics: Path) -> tuple[Mapping[str, Any], ...]:
    """Each rank's peaks, from the ``end`` line of a run's metrics; none without one."""
    if not metrics.is_file():
        return ()
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # half a line: what came of a host that was lost
            continue
        if event.get("event") == "end":
            return tuple(event.get("ranks") or ())
    return ()


def compare_peaks(memory: RunMemory, peaks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Measured beside planned, rank by rank: the GPU's reserved bytes, or the process's own."""
    if memory.advice is None:
        return []
    chosen = [memory.advice.asked, *memory.advice.options]
    wanted = (memory.zero, memory.offload)
    option = next(o for o in chosen if (o.spec.zero, o.spec.offload) == wanted)
    peak = max(option.estimate.moments, key=lambda moment: moment.tensors)
    rows = []
    for rank in peaks:
        on_gpu = rank.get("peak_reserved_bytes") is not None
        measured = rank["peak_reserved_bytes"] if on_gpu else rank["peak_host_bytes"]
        # Reserved by torch: tensors and the gaps between them, but no CUDA context.
        planned = int(peak.tensors * (1 + FRAGMENTATION))
        if not on_gpu:
            planned = peak.tensors + option.estimate.state.host + PROCESS["cpu"]
        where = "gpu" if on_gpu else "host"
        rows.append(
            {"rank": rank["rank"], "where": where, "measured": measured, "planned": planned}
        )
    return rows


def peak_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same for a person."""
    return [
        f"  rank {row['rank']}: peak {row['measured'] / GB:.2f} GB ({row['where']} memory), "
        f"planned {row['planned'] / GB:.2f}"
        for row in rows
    ]


def after_failure(memory: RunMemory, reason: str, lines: Sequence[str]) -> str | None:
    """What to change, if a run failed for want of memory; None if it was something else."""
    told = "\n".join((reason, *lines))
    gpu, host = bool(_GPU_FULL.search(told)), bool(_HOST_FULL.search(told))
    if memory.advice is None or not (gpu or host):
        return None
    asked, room = memory.advice.asked, memory.room
    if asked.fits is False:
        return f"memory: {memory.advice.text}"
    # The plan said that it fits, and it did not: find what needs clearly less than it said.
    plan = asked.estimate
    less = Room(
        gpu=int(plan.peak.total * TIGHT) if gpu else room.gpu or plan.peak.total,
        host=int(plan.host_total * TIGHT) if host else room.host or 2 * plan.host_total,
    )
    changed = smallest_change(asked.spec, less)
    where = f"{plan.host_total / GB:.1f} GB a host"
    if gpu:
        where = f"{plan.peak.total / GB:.1f} GB a GPU"
    needs = f"memory: {asked.name} was planned with {where}, which was too little"
    if changed is None:
        return f"{needs}: shorten the rows, or use more GPUs or hosts"
    return f"{needs}: try {flags_of(asked.spec, changed)}"

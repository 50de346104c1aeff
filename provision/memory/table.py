"""An Advice as tables for a person. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from provision.memory.advise import GB, Advice, Option
from provision.memory.estimate import PARTS

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _gb(size: int) -> str:
    return f"{size / GB:,.2f}"


def part_table(advice: Advice) -> Table:
    """What one GPU holds at each moment of a step, in GB."""
    found = advice.asked.estimate
    rows = [
        (
            moment.name + (" *" if moment is found.peak else ""),
            *(_gb(getattr(moment, part)) for part in PARTS),
            _gb(moment.total),
        )
        for moment in found.moments
    ]
    return ("GB a GPU, when", *PARTS, "total"), rows


def stage_table(advice: Advice) -> Table:
    """All stages side by side."""
    columns = ("stage", "offload", "GB a GPU", "GB a host", "GB sent a step", "fits")
    return columns, [_stage(option, advice) for option in advice.options]


def _stage(option: Option, advice: Advice) -> tuple[str, ...]:
    fits = {True: "yes", False: "no", None: "?"}[option.fits]
    marks = " (asked)" if option.spec == advice.asked.spec and not advice.auto else ""
    best = advice.recommended
    if best and best.spec == option.spec:
        marks += " (best)"
    return (
        f"{option.spec.zero}{marks}",
        option.spec.offload,
        _gb(option.estimate.peak.total),
        _gb(option.estimate.host_total),
        _gb(option.estimate.network),
        fits,
    )


def headline(advice: Advice) -> str:
    """What was planned, in a line."""
    spec, found = advice.asked.spec, advice.asked.estimate
    how = f"LoRA rank {spec.lora_rank}" if spec.method == "lora" else spec.method
    kept = "with" if spec.checkpointing else "without"
    return (
        f"{spec.model.name} ({spec.model.parameters:,} parameters), {how}, {spec.objective}, "
        f"{spec.precision}, {spec.attention}, {kept} checkpointing; "
        f"{spec.nodes} x {spec.gpus} GPUs, {spec.batch} x {spec.seq:,} tokens, "
        f"accumulation {spec.accum}; "
        f"a checkpoint takes {found.checkpoint / GB:,.1f} GB on disk"
    )

"""Settings, recipe and facts → what is asked of the planner, and the room there is. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.hosts.facts import HostFacts
from provision.memory.advise import Room
from provision.memory.model import Model
from provision.memory.spec import MemorySpec, check_spec, spec_from_flags
from provision.preflight.gpus import gpus_of_run
from provision.settings import Settings

_MIB = 1 << 20
#: Flags of ``memory`` → fields of MemorySpec, and how they are read.
_FLAGS: Mapping[str, tuple[str, type]] = {
    "method": ("method", str),
    "objective": ("objective", str),
    "gpus": ("gpus", int),
    "nodes": ("nodes", int),
    "seq": ("seq", int),
    "batch": ("batch", int),
    "accum": ("accum", int),
    "attn": ("attention", str),
    "precision": ("precision", str),
    "lora_rank": ("lora_rank", int),
}


def make_asked(settings: Settings, model: Model, recipe: Mapping[str, Any]) -> MemorySpec:
    """The run to plan: ``memory``'s flags over the recipe's (with --set over them).

    Raises ConfigError for a value that can't be read or honoured.
    """
    zero, offload = settings.zero, settings.offload
    spec = MemorySpec(model=model, zero=zero, offload=offload)
    spec = spec_from_flags(spec, recipe, read_zero_config(zero, offload))
    changes: dict[str, Any] = {}
    for flag, (field, kind) in _FLAGS.items():
        value = getattr(settings, flag)
        if value is not None:
            changes[field] = value if kind is str else _number(flag, value)
    if settings.checkpointing is not None:
        changes["checkpointing"] = _switch("checkpointing", settings.checkpointing)
    if settings.accelerator:
        changes["accelerator"] = settings.accelerator
    spec = spec.with_(**changes)
    if settings.seq is None and "model_max_length" not in settings.set:
        # Only the shipped recipe said how long rows are.
        spec = spec.with_(seq=min(spec.seq, model.positions))
    return check_spec(spec)


def read_zero_config(zero: int, offload: str) -> Mapping[str, Any]:
    """The DeepSpeed configuration of this checkout for a stage; empty for stage 0."""
    folder = Path(__file__).resolve().parent.parent.parent / "zero_configs"
    ending = {"none": "", "optimizer": "_offload", "all": "_offload"}.get(offload, "")
    file = folder / f"zero{zero}{ending}.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _number(flag: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(
            f"--{flag.replace('_', '-')}",
            found=repr(value),
            expected="a whole number",
            remedy="write it in digits",
        ) from None


def _switch(flag: str, value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in known:
        raise ConfigError(
            f"--{flag}", found=repr(value), expected="true or false", remedy="write one of them"
        )
    return known[str(value).lower()]


def room_from_flags(settings: Settings) -> Room:
    """The room that --gpu-memory and --host-memory name, in GB (10^9); unknown without."""
    sizes = {}
    for flag in ("gpu_memory", "host_memory"):
        value = getattr(settings, flag)
        try:
            sizes[flag] = None if value is None else int(float(value) * 1e9)
        except ValueError:
            raise ConfigError(
                f"--{flag.replace('_', '-')}", found=repr(value), expected="GB", remedy="as in 80"
            ) from None
    return Room(gpu=sizes["gpu_memory"], host=sizes["host_memory"])


def room_of(
    facts: Mapping[str, HostFacts],
    slots: Mapping[str, int],
    devices: Mapping[str, tuple[int, ...]] | None = None,
) -> Room:
    """The smallest GPU and the smallest host's free memory; None where any is not known.

    ``devices``: a host's GPUs by index, where not the first ones are used. A GPU's total is
    counted: what others use of it is a finding of preflight's own.
    """
    gpus: list[int | None] = []
    free: list[int | None] = []
    for host, ranks in slots.items():
        fact = facts[host]
        used = gpus_of_run(fact, ranks, (devices or {}).get(host))
        gpus += [_mib(gpu.get("memory_total")) for gpu in used] or [None]
        free.append(_free(fact))
    return Room(gpu=_least(gpus), host=_least(free))


def _least(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return min(known) if known and len(known) == len(sizes) else None


def _mib(text: object) -> int | None:
    try:
        return int(float(str(text))) * _MIB
    except ValueError:
        return None


def _free(facts: HostFacts) -> int | None:
    memory, limit = facts["memory"].value, facts["memory.limit"].value
    if not memory:
        return None
    free = int(memory["available"])
    return min(free, int(limit["limit"]) - int(limit["used"])) if limit else free


def on_hosts(spec: MemorySpec, slots: Mapping[str, int]) -> MemorySpec:
    """The spec on these hosts. The fullest host counts for host memory, all ranks for splitting."""
    ranks, most = sum(slots.values()), max(slots.values())
    if ranks % most:
        # Hosts of different sizes: as many of the fullest as there are ranks for, rounded down, so
        # that a rank's part is never planned smaller than it is.
        return check_spec(spec.with_(gpus=most, nodes=max(1, ranks // most)))
    return check_spec(spec.with_(gpus=most, nodes=ranks // most))

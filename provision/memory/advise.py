"""All stages side by side, the one to take and why, and the least change that makes a run fit.

Pure: decides with what it is given of the hosts' GPUs and memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from provision.errors import ConfigError
from provision.memory.estimate import Estimate, estimate
from provision.memory.spec import MemorySpec, check_spec

#: Above this share of a GPU or a host a run is said to be tight.
TIGHT = 0.9
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Room:
    """What there is: bytes of the smallest GPU (total), and of the smallest host (free).

    None: not known. ``host`` None is never taken to be enough for offloading.
    """

    gpu: int | None = None
    host: int | None = None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to run, judged. ``fits`` is None where the room is not known."""

    spec: MemorySpec
    estimate: Estimate
    fits: bool | None
    used: float | None

    @property
    def name(self) -> str:
        """As a person says it: ZeRO-3, optimizer offloaded."""
        return zero_name(self.spec)

    def as_json(self) -> dict[str, object]:
        """One entry of ``options``."""
        return {
            "zero": self.spec.zero,
            "offload": self.spec.offload,
            "per_gpu_total": self.estimate.peak.total,
            "per_host_total": self.estimate.host_total,
            "network_bytes_per_step": self.estimate.network,
            "fits": self.fits,
        }


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The asked-for run, the stages beside it, and what to do.

    ``auto``: nobody asked for its stage and offload; they are the recommended ones, if any fit.
    """

    asked: Option
    options: tuple[Option, ...]
    recommended: Option | None
    text: str
    change: MemorySpec | None
    auto: bool = False

    def as_json(self) -> dict[str, object]:
        """Keys of ``--json``."""
        best = self.recommended
        return {
            **self.asked.estimate.as_json(),
            "fits": self.asked.fits,
            "used": self.asked.used,
            "advice": self.text,
            "recommended": best and {"zero": best.spec.zero, "offload": best.spec.offload},
            "change": flags_of(self.asked.spec, self.change) if self.change else None,
            "options": [option.as_json() for option in self.options],
        }


def zero_name(spec: MemorySpec) -> str:
    """A stage and its offload in words."""
    stage = f"ZeRO-{spec.zero}" if spec.zero else "no ZeRO"
    away = {"none": "", "optimizer": ", optimizer offloaded", "all": ", all offloaded"}
    return stage + away[spec.offload]


def judge_option(spec: MemorySpec, room: Room) -> Option:
    """A run against the room; on the CPU only the host counts."""
    found = estimate(spec)
    shares: list[float | None] = []
    if spec.accelerator != "cpu":
        shares.append(found.peak.total / room.gpu if room.gpu else None)
    if spec.accelerator == "cpu" or spec.offload != "none" or room.host:
        shares.append(found.host_total / room.host if room.host else None)
    known = [share for share in shares if share is not None]
    if any(share > 1 for share in known):
        fits: bool | None = False
    else:
        fits = None if len(known) < len(shares) else True
    return Option(spec=spec, estimate=found, fits=fits, used=max(known) if known else None)


#: By what they cost in speed, least first: stage 1 and 2 send alike (1 less when gradients
#: accumulate), 3 half as much again, and offloading waits for PCIe and the CPU's Adam.
STAGES = (
    (1, "none"), (2, "none"), (3, "none"), (1, "optimizer"), (2, "optimizer"), (3, "all"),
)  # fmt: skip


def advise(spec: MemorySpec, room: Room, *, auto: bool = False) -> Advice:
    """What the run needs, what each stage would, and what to do about it.

    ``auto``: the spec's stage is only a place to start from; the recommended one is planned.
    """
    asked = judge_option(spec, room)
    options = []
    for zero, offload in ((0, "none"), *STAGES):
        try:
            other = check_spec(spec.with_(zero=zero, offload=offload))
        except ConfigError:
            continue  # a combination that can't be, such as qlora at stage 3
        options.append(judge_option(other, room))
    ranked = [option for option in _ranked(options) if option.fits]
    best = ranked[0] if ranked else None
    if auto and best:
        return replace(advise(best.spec, room), auto=True)
    change = None if asked.fits is not False else smallest_change(spec, room)
    return Advice(
        asked=asked,
        options=tuple(options),
        recommended=best,
        text=_text(asked, best, change, room, options),
        change=change,
        auto=auto,
    )


def _ranked(options: list[Option]) -> list[Option]:
    order = {stage: place for place, stage in enumerate(STAGES)}
    usable = [option for option in options if (option.spec.zero, option.spec.offload) in order]
    return sorted(usable, key=lambda option: order[option.spec.zero, option.spec.offload])


def smallest_change(spec: MemorySpec, room: Room) -> MemorySpec | None:
    """The change that makes it fit at the least cost in speed; None if nothing here does."""
    for changed in _changes(spec):
        try:
            check_spec(changed)
        except ConfigError:
            continue
        if judge_option(changed, room).fits:
            return changed
    return None


def _changes(spec: MemorySpec) -> Iterator[MemorySpec]:
    """Least cost first: a smaller batch with as many rows a step; other stages on the GPUs;
    checkpointing; offloading; what is trained; the rows' length last. Each with those before it.
    """
    batches = _smaller_batches(spec)
    yield from batches
    least = batches[-1] if batches else spec
    here = (spec.zero, spec.offload)
    on_gpu = [stage for stage in STAGES if stage[1] == "none" and stage[0] > spec.zero]
    away = [stage for stage in STAGES if stage[1] != "none" and stage[0] >= spec.zero]
    lora = [(2, "none"), (3, "none"), (3, "all")] if spec.method == "full" else []
    yield from (_at(base, stage) for base in (spec, least) for stage in on_gpu)
    for base in (spec, least):
        for stage in (here, *on_gpu):
            yield _at(base, stage).with_(checkpointing=True)
    small = least.with_(checkpointing=True)
    yield from (_at(small, stage) for stage in away)
    yield from (_at(small, stage).with_(method="lora") for stage in lora)
    lengths = [spec.seq >> halved for halved in range(1, 20) if spec.seq >> halved >= 256]
    for seq in lengths:
        yield from (_at(small, stage).with_(seq=seq) for stage in (here, (3, "none"), (3, "all")))


def _at(spec: MemorySpec, stage: tuple[int, str]) -> MemorySpec:
    return spec.with_(zero=stage[0], offload=stage[1])


def _smaller_batches(spec: MemorySpec) -> list[MemorySpec]:
    found, rows = [], spec.batch
    while rows > 1:
        rows = (rows + 1) // 2
        found.append(spec.with_(batch=rows, accum=-(-spec.batch * spec.accum // rows)))
    return found


def flags_of(spec: MemorySpec, changed: MemorySpec) -> str:
    """A change as flags of ``train``."""
    said = []
    for field, flag in (
        ("zero", "--zero"), ("offload", "--offload"),
        ("batch", "--set per_device_train_batch_size="),
        ("accum", "--set gradient_accumulation_steps="),
        ("seq", "--set model_max_length="),
    ):  # fmt: skip
        value = getattr(changed, field)
        if value != getattr(spec, field):
            said.append(f"{flag}{value}" if flag.endswith("=") else f"{flag} {value}")
    if changed.checkpointing != spec.checkpointing:
        said.append("--set activation_checkpointing=true")
    if changed.method != spec.method:
        said.append("--set use_peft=true")
    return " ".join(said)


def _text(
    asked: Option, best: Option | None, change: MemorySpec | None, room: Room,
    options: list[Option],
) -> str:  # fmt: skip
    """The recommendation in one sentence, with its reason."""
    spec, peak = asked.spec, asked.estimate.peak
    needs = f"{zero_name(spec)} needs {peak.total / GB:.1f} GB a GPU"
    if asked.fits is None:
        least = min(options, key=lambda option: option.estimate.peak.total)
        return (
            f"{needs} and {asked.estimate.host_total / GB:.0f} GB a host; whether that fits is not "
            f"known (give --hosts, or --gpu-memory and --host-memory); the least is "
            f"{least.estimate.peak.total / GB:.1f} GB a GPU with {least.name}"
        )
    if asked.fits:
        if best and _cheaper(best, asked):
            return f"it fits; {best.name} fits too and is faster: {_reason(best, room)}"
        tight = " (tight)" if (asked.used or 0) > TIGHT else ""
        return f"it fits{tight}: {_reason(asked, room)}"
    if change is None:
        return (
            f"{needs}, and no stage, offload or shorter rows fit: use more or larger GPUs or hosts"
        )
    need = judge_option(change, room).estimate
    return (
        f"{needs} and {asked.estimate.host_total / GB:.0f} GB a host, which does not fit; "
        f"{flags_of(spec, change)} does, with {need.peak.total / GB:.1f} GB a GPU and "
        f"{need.host_total / GB:.0f} GB a host"
    )


def _cheaper(best: Option, asked: Option) -> bool:
    order = [(option.spec.zero, option.spec.offload) for option in _ranked([best, asked])]
    rows = (asked.spec.zero, asked.spec.offload)
    # Stages 1 and 2 cost alike: nobody is sent from the one to the other.
    alike = {best.spec.zero, asked.spec.zero} <= {1, 2} and best.spec.offload == asked.spec.offload
    return bool(order) and rows in order and order[0] != rows and not alike


def _reason(option: Option, room: Room) -> str:
    peak = option.estimate.peak
    part = max(
        ("parameters", "gradients", "optimizer", "activations", "logits", "buffers"),
        key=lambda name: int(getattr(peak, name)),
    )
    if option.spec.accelerator == "cpu":
        return f"{option.name} takes {option.estimate.host_total / GB:.1f} GB a host"
    of = f" of {room.gpu / GB:.0f}" if room.gpu else ""
    return (
        f"{option.name} takes {peak.total / GB:.1f}{of} GB a GPU, most of it {part}, and "
        f"{option.estimate.host_total / GB:.0f} GB a host"
    )

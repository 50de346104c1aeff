"""What ZeRO allocates from step to step, on each GPU and on its host. Pure; bytes for one rank.

Read in stage_1_and_2.py and stage3.py of DeepSpeed 0.19.8
(https://github.com/deepspeedai/DeepSpeed/tree/v0.19.8/deepspeed/runtime/zero), and held to the
tensors of real engines by tests/trainer/test_memory.py.
P: numbers that train, N: ranks, e: bytes of a number (2 in half precision).

    stage 0   no DeepSpeed: weights, gradients, DDP's buckets (one more gradient), moments: all fp32
    stage 1   e P weights; per rank 4 P/N master, 8 P/N moments; e P/N gradients, or e P while they
              accumulate
    stage 2   the same; e P/N gradients, twice while they accumulate
    stage 3   e/N of all weights, trained or not; e P/N gradients, 12 P/N master and moments

A step adds fp32 gradients of a rank's part (4 P/N) and a flat copy in half precision (e P/N).
Offloading the optimizer moves master, moments and fp32 gradients to the host, beside a half
precision buffer for what goes back: 16 + e bytes for each of P/N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from provision.memory.spec import MemorySpec, frozen_bytes, trained_weights

FP32 = 4
#: Stage 3's own limits, DeepSpeed's defaults (zero/config.py): parameters are kept whole while they
#: are used again within max_reuse_distance, and optimized in groups of sub_group_size.
REUSE = 1_000_000_000
SUB_GROUP = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class State:
    """Bytes of one rank. ``host_*`` are in host memory, all else on the GPU.

    ``carried``: gradients that wait in forward for more of them; ``whole``: at the end of backward;
    ``stepping``: while the optimizer steps; ``early``: those that exist in the middle of backward,
    where a bucket ``fills``: at stage 1 what accumulated stays where it is, at stage 2 a rank's
    part is copied out. ``fixed``: buffers that are always there; ``buckets``: in backward,
    and with ``bucketed_forward`` in forward too; ``flat``: a bucket's copy while reduced;
    ``gathered``: weights that are whole, or cast, for forward and backward. ``held``: the output
    layer's gradient, which waits for the embedding's where they are one; ``last``: both.
    """

    parameters: int
    master: int
    moments: int
    carried: int
    whole: int
    stepping: int
    early: int
    buckets: int
    gathered: int
    held: int = 0
    last: int = 0
    fixed: int = 0
    flat: int = 0
    fills: bool = False
    bucketed_forward: bool = False
    host_parameters: int = 0
    host_optimizer: int = 0
    host_gradients: int = 0
    host_pinning: int = 0

    @property
    def optimizer(self) -> int:
        """Master copies and moments on the GPU."""
        return self.master + self.moments

    @property
    def host(self) -> int:
        """All of this rank that is in host memory."""
        return self.host_parameters + self.host_optimizer + self.host_gradients + self.host_pinning


def plan_state(spec: MemorySpec) -> State:
    """The bytes of a rank; those of the fullest rank where they differ."""
    if spec.zero == 0:
        return _without_zero(spec)
    return _split_parameters(spec) if spec.zero == 3 else _split_optimizer(spec)


def _embedding(spec: MemorySpec) -> tuple[int, int]:
    """Bytes of gradients of the embedding: held through backward, and at its end."""
    if spec.adapted:
        return 0, 0
    size = spec.model.vocabulary * spec.model.hidden * spec.element
    return (size, 2 * size) if spec.model.tied else (0, size)


def _without_zero(spec: MemorySpec) -> State:
    trained = sum(weight.numel for weight in trained_weights(spec))
    # Autocast keeps a half precision copy of each weight that trains until the step has ended.
    linear = sum(weight.numel for weight in trained_weights(spec) if weight.linear)
    if spec.model.tied and not spec.adapted:
        linear += spec.model.vocabulary * spec.model.hidden
    cast = 0 if spec.element == FP32 else spec.element * linear
    buckets = FP32 * trained if spec.ranks > 1 else 0
    return State(
        parameters=frozen_bytes(spec) + FP32 * trained,
        master=0,
        moments=2 * FP32 * trained,
        carried=FP32 * trained if spec.accum > 1 else 0,
        whole=FP32 * trained,
        stepping=FP32 * trained,
        early=FP32 * trained if spec.accum > 1 else 0,
        buckets=0,
        gathered=cast,
        fixed=buckets,
    )


def _groups(spec: MemorySpec) -> tuple[list[int], list[int]]:
    """Sizes of the tensors with and without weight decay: the Trainer's two groups."""
    weights = trained_weights(spec)
    plain = [w for w in weights if "norm" in w.name or w.name.endswith(".bias")]
    skipped = {id(weight) for weight in plain}
    return [w.numel for w in weights if id(w) not in skipped], [w.numel for w in plain]


def whole_partition(sizes: Sequence[int], ranks: int) -> int:
    """Numbers of all tensors that touch a rank's part, for the rank with most: gradients of a
    tensor on a boundary are held whole by both sides.
    """
    part = math.ceil(sum(sizes) / (2 * ranks)) * 2
    held = [0] * ranks
    start = 0
    for size in sizes:
        for rank in range(start // part, (start + size - 1) // part + 1):
            held[rank] += size
        start += size
    return max(held)


def _split_optimizer(spec: MemorySpec) -> State:
    e, ranks = spec.element, spec.ranks
    groups = [group for group in _groups(spec) if group]
    trained = sum(map(sum, groups))
    part = sum(math.ceil(sum(group) / (2 * ranks)) * 2 for group in groups)
    whole = sum(whole_partition(group, ranks) for group in groups)
    accumulates, offloads = spec.accum > 1, spec.offload != "none"
    carried = 0
    if accumulates:
        carried = e * trained if spec.zero == 1 else 0 if offloads else e * whole
    held, last = _embedding(spec)
    # Two buckets below, so that one fills while the other is reduced (overlap_comm); what a rank
    # keeps is copied out of them when the first is full.
    fills = trained > spec.reduce_bucket
    kept = e * whole if fills and not offloads else 0
    largest = e * max(max(group) for group in groups)
    pinned = [FP32 * part, FP32 * part, e * part] if offloads else []
    waiting = e * whole if offloads and accumulates and spec.zero == 2 else 0
    return State(
        parameters=frozen_bytes(spec) + e * trained,
        master=0 if offloads else FP32 * part,
        moments=0 if offloads else 2 * FP32 * part,
        carried=carried,
        whole=0 if offloads else e * whole + (carried if spec.zero == 2 else 0),
        stepping=0 if offloads else e * whole + (FP32 + e) * part,
        early=max(carried, kept) if spec.zero == 1 else carried + kept,
        fills=fills,
        buckets=2 * e * spec.reduce_bucket,
        gathered=0,
        held=held,
        last=last,
        fixed=largest if offloads else 0,
        flat=e * min(trained, spec.reduce_bucket),
        bucketed_forward=accumulates and spec.zero == 1,
        host_optimizer=3 * FP32 * part if offloads else 0,
        host_gradients=(FP32 + e) * part + largest + waiting if offloads else 0,
        host_pinning=_rounding(spec, pinned),
    )


def _split_parameters(spec: MemorySpec) -> State:
    e, ranks, hidden = spec.element, spec.ranks, spec.model.hidden
    sizes = [weight.numel for weight in trained_weights(spec)]
    part = sum(math.ceil(size / ranks) for size in sizes)
    base = [] if not spec.adapted else [weight.numel for weight in spec.model.weights]
    held_parameters = e * (part + sum(math.ceil(size / ranks) for size in base))
    optimizer_away, parameters_away = spec.offload != "none", spec.offload == "all"
    step = min(part, SUB_GROUP)
    everything = sum(sizes) + sum(base)
    # transformers fills in: bucket h², prefetch 0.9 h². What was used is kept while backward (and
    # its recomputation) will use it again within REUSE, so half of that on the way there.
    live = min(everything, REUSE // 2 + int(0.9 * hidden * hidden) + max(*sizes, *base, 0))
    held, last = _embedding(spec)
    pinned = []
    if optimizer_away:
        pinned = [FP32 * min(SUB_GROUP, part)] * (2 * math.ceil(part / SUB_GROUP)) + [e * part]
    if parameters_away:
        pinned.append(held_parameters)
    return State(
        parameters=0 if parameters_away else held_parameters,
        master=0 if optimizer_away else FP32 * part,
        moments=0 if optimizer_away else 2 * FP32 * part,
        carried=0 if optimizer_away else e * part,
        whole=0 if optimizer_away else e * part,
        stepping=0 if optimizer_away else e * part + (FP32 + e) * step,
        early=0 if optimizer_away else e * part,
        buckets=0,
        fixed=e * hidden * hidden,
        gathered=e * live,
        held=held,
        last=last,
        host_parameters=held_parameters if parameters_away else 0,
        host_optimizer=3 * FP32 * part if optimizer_away else 0,
        host_gradients=(FP32 + e) * part if optimizer_away else 0,
        host_pinning=_rounding(spec, pinned),
    )


def _rounding(spec: MemorySpec, pinned: Sequence[int]) -> int:
    """What pinned allocations take beyond their size: torch rounds each up to a power of two
    (https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/core/CachingHostAllocator.h).
    """
    if spec.accelerator != "cuda":
        return 0
    return sum((1 << (size - 1).bit_length()) - size for size in pinned if size)

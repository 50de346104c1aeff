"""A run's memory at each of its moments, and what it writes and sends. Pure; bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provision.memory.activations import backward_bytes, logits_bytes, saved_bytes
from provision.memory.spec import MemorySpec, trained_weights
from provision.memory.state import State, plan_state

#: What is no tensor: the CUDA context with its kernels, NCCL's channels on more than one rank, and
#: cuBLAS' workspace. An assumption, on the high side of what nvidia-smi shows for an idle rank.
CONTEXT, NCCL = 700 << 20, 500 << 20
#: What the allocator reserves beyond tensors, as a share of them. An assumption too: no GPU has
#: confirmed it yet (bench/memory.py --gpu does).
FRAGMENTATION = 0.05
#: A rank's own host memory, by accelerator: Python with torch, transformers and DeepSpeed (0.5 to
#: 0.7 GB resident on the CPU, by runs' own records) and, assumed, CUDA's libraries.
PROCESS = {"cpu": 1_000_000_000, "cuda": 2_000_000_000}

PARTS = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "buffers",
    "reserve",
)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One moment of a step on one GPU; the parts add up to ``total``."""

    name: str
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    reserve: int

    @property
    def tensors(self) -> int:
        """All but the reserve: what torch.cuda.max_memory_allocated counts."""
        return self.total - self.reserve

    @property
    def total(self) -> int:
        """What the GPU must have."""
        return sum(getattr(self, part) for part in PARTS)

    def as_json(self) -> dict[str, int | str]:
        """The ``per_gpu`` key of ``--json``."""
        parts: dict[str, int | str] = {part: getattr(self, part) for part in PARTS}
        return {**parts, "total": self.total, "moment": self.name}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run needs. ``moments`` in the order of a step; ``per_host`` by part, of a host's ranks
    together. ``checkpoint``: one checkpoint of all ranks; ``network``: sent by each GPU in a step.
    """

    spec: MemorySpec
    state: State
    moments: tuple[Moment, ...]
    per_host: Mapping[str, int]
    checkpoint: int
    network: int

    @property
    def peak(self) -> Moment:
        """The moment that needs most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def host_total(self) -> int:
        """Bytes of host memory on each host."""
        return sum(self.per_host.values())

    def as_json(self) -> dict[str, object]:
        """Keys of ``--json``: bytes."""
        return {
            "per_gpu": self.peak.as_json(),
            "per_host": {**self.per_host, "total": self.host_total},
            "moments": [moment.as_json() for moment in self.moments],
            "checkpoint_bytes": self.checkpoint,
            "network_bytes_per_step": self.network,
        }


def estimate(spec: MemorySpec) -> Estimate:
    """Plan a run's memory."""
    state = plan_state(spec)
    moments = _moments(spec, state)
    ranks = spec.gpus
    host = {
        "processes": PROCESS[spec.accelerator] * ranks,
        "parameters": state.host_parameters * ranks,
        "optimizer": state.host_optimizer * ranks,
        "gradients": state.host_gradients * ranks,
        "pinning": state.host_pinning * ranks,
    }
    if spec.accelerator == "cpu":  # the host's memory is the ranks' own
        host["tensors"] = max(moment.tensors for moment in moments) * ranks
    return Estimate(
        spec=spec,
        state=state,
        moments=moments,
        per_host=host,
        checkpoint=_checkpoint(spec),
        network=_network(spec),
    )


def _moments(spec: MemorySpec, state: State) -> tuple[Moment, ...]:
    saved, fixed = saved_bytes(spec), state.fixed
    buffers = fixed + state.gathered + state.buckets
    before = fixed + state.gathered + (state.buckets if state.bucketed_forward else 0)
    # Without checkpointing, what forward kept has gone by as much as the first bucket took.
    trained = sum(weight.numel for weight in trained_weights(spec))
    left = saved if spec.checkpointing else saved - saved * min(1, spec.reduce_bucket / trained)
    early = state.fills
    logits = spec.tokens * spec.model.vocabulary * spec.element
    waits = 0 if spec.adapted else spec.model.vocabulary * spec.model.hidden * spec.element
    end = state.early if spec.zero != 1 else state.whole * early
    rows = (
        ("loss", state.carried, saved, logits_bytes(spec), before),
        ("output layer", state.carried + waits, saved, logits, buffers),
        (
            "backward",
            state.early + state.held,
            (int(left) if early else saved) + backward_bytes(spec),
            0,
            buffers + (state.flat if early else 0),
        ),
        ("embedding", end + state.last, 0, 0, buffers),
        ("reduction", end, 0, 0, buffers + state.flat),
        ("step", state.stepping, 0, 0, fixed),
    )
    return tuple(_moment(spec, state, *row) for row in rows)


def _moment(
    spec: MemorySpec, state: State, name: str, gradients: int, activations: int, logits: int,
    buffers: int,
) -> Moment:  # fmt: skip
    tensors = state.parameters + state.optimizer + gradients + activations + logits + buffers
    reserve = 0
    if spec.accelerator == "cuda":
        reserve = CONTEXT + (NCCL if spec.ranks > 1 else 0) + int(FRAGMENTATION * tensors)
    return Moment(
        name=name,
        parameters=state.parameters,
        gradients=gradients,
        optimizer=state.optimizer,
        activations=activations,
        logits=logits,
        buffers=buffers,
        reserve=reserve,
    )


def _checkpoint(spec: MemorySpec) -> int:
    """Weights (or adapter) in half precision, and under ZeRO master copy and moments of all ranks:
    what a save to resume from writes. The final model alone is the first of these.
    """
    trained = sum(weight.numel for weight in trained_weights(spec))
    if spec.zero == 0:
        return trained * (4 + 8)
    model = trained * spec.element
    # DeepSpeed's own file of the module's states holds frozen weights too, at stages 1 and 2;
    # at stage 3 each rank writes its part of them.
    module = model + (spec.model.parameters * spec.element if spec.adapted else 0)
    return model + module + trained * 12


def _network(spec: MemorySpec) -> int:
    """Bytes that each GPU sends in an optimizer step, ring collectives: (N-1)/N of the volume.

    Stages 0 and 1 reduce once a step, stage 2 in each micro-batch; all of them put the weights
    together once. Stage 3 gathers all weights for forward and for backward of each micro-batch
    (with those that are frozen), and reduces gradients there too (https://arxiv.org/abs/1910.02054,
    section 7; DeepSpeed's engine.allreduce_gradients).
    """
    trained = sum(weight.numel for weight in trained_weights(spec))
    share = (spec.ranks - 1) / spec.ranks
    if spec.zero == 0:
        return int(2 * share * 4 * trained)
    if spec.zero < 3:
        times = spec.accum if spec.zero == 2 else 1
        return int(share * spec.element * trained * (times + 1))
    everything = trained + (spec.model.parameters if spec.adapted else 0)
    return int(share * spec.element * spec.accum * (2 * everything + trained))

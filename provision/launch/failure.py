"""From every host's exit.json to the run's outcome: did it finish, and if not, what came first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from provision import errors
from provision.launch.remedies import Remedy, find_remedy
from provision.launch.states import State


@dataclass(frozen=True, kw_only=True)
class RankEnd:
    """How one rank ended. ``exit`` is a shell's code, None where nobody could read it."""

    host: str
    node_rank: int
    local_rank: int
    rank: int
    state: State
    exit: int | None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended a run. ``rank`` is None when no rank is to blame: torchrun itself, or the host.

    ``at`` is in seconds since 1970 by the controller's clock, None when unknown. ``symptom``: it
    reads as another rank's end would make it read, but no cause was found.
    """

    host: str
    rank: int | None
    local_rank: int | None
    at: float | None
    reason: str
    lines: tuple[str, ...] = ()
    symptom: bool = False

    def __str__(self) -> str:
        rank = "" if self.rank is None else f"rank {self.rank} (local_rank {self.local_rank}): "
        return f"{self.host}: {rank}{self.reason}"


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What became of a run. ``lost``: hosts that could not say how their node ended, and why."""

    run: str
    state: State
    ranks: tuple[RankEnd, ...]
    first_failure: Failure | None
    lost: Mapping[str, str] = field(default_factory=dict)
    loss: tuple[float, float] | None = None
    jit_compiled: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def exit_code(self) -> int:
        """0 when it finished or was stopped on request, else 5: unknown is never ok."""
        return errors.OK if self.state in (State.FINISHED, State.STOPPED) else errors.RANK_FAILED

    @property
    def known(self) -> Remedy | None:
        """What is known of its first failure; nothing of what only followed from another."""
        first = self.first_failure
        return None if first is None or first.symptom else find_remedy(first.reason, first.lines)

    def __str__(self) -> str:
        took = "" if self.seconds is None else f" after {self.seconds:.0f} s"
        lines = [f"run {self.run}: {self.state}{took}"]
        if self.loss:
            lines.append(f"  loss {self.loss[0]:.4g} → {self.loss[1]:.4g}")
        if self.first_failure:
            first = self.first_failure
            doubt = " (only a consequence; its cause left no trace)" if first.symptom else ""
            lines += [f"  first failure: {first}{doubt}", *(f"    | {t}" for t in first.lines)]
        if self.known:
            lines.append(f"  known: {self.known}")
        lines += [f"  {host}: lost: {reason}" for host, reason in self.lost.items()]
        for state in (State.FAILED, State.STOPPED):
            ended = [r for r in self.ranks if r.state == state]
            if ended:
                lines.append(f"  {state}: {', '.join(f'rank {r.rank} ({r.host})' for r in ended)}")
        if self.jit_compiled:
            lines.append(f"  compiled on hosts during the run: {', '.join(self.jit_compiled)}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The ``outcome`` key of ``--json``: a stable contract, keys are only ever added."""
        first = self.first_failure
        return {
            "run": self.run,
            "state": self.state,
            "ranks": [asdict(rank) for rank in self.ranks],
            "first_failure": None if first is None else {**asdict(first), "lines": [*first.lines]},
            "known": self.known and self.known.as_json(),
            "lost": dict(self.lost),
            "loss": None if self.loss is None else list(self.loss),
            "jit_compiled": list(self.jit_compiled),
            "seconds": self.seconds,
        }


def _failure(host: str, ended: Mapping[str, Any], offset: float) -> Failure | None:
    found = ended["first_failure"]
    if found is None:
        return None
    return Failure(
        host=found.get("host") or host,  # a host that fell silent is named by those that live
        rank=found["rank"],
        local_rank=found["local_rank"],
        at=found["at"] - offset,
        reason=found["reason"],
        lines=tuple(found["lines"]),
        symptom=bool(found.get("symptom")),
    )


def _heard(exits: Mapping[str, Mapping[str, Any]]) -> Failure | None:
    """Why a host stopped that was told so by another, which can't be asked itself."""
    for ended in exits.values():
        cause = ended.get("stopped_by")
        if cause and cause["kind"] != "asked":
            return Failure(
                host=cause["host"],
                rank=cause.get("rank"),
                local_rank=cause.get("local_rank"),
                at=cause["at"],
                reason=cause["reason"],
                symptom=bool(cause.get("symptom")),
            )
    return None


def _unreachable(exits: Mapping[str, Mapping[str, Any]], lost: Mapping[str, str]) -> str:
    """The lost hosts, where those that heard nothing of any other are all that can be asked: what
    they take for a cut network of their own is the end of all others. Empty if it is not so.
    """
    found = [ended["first_failure"] for ended in exits.values()]
    alone = len(exits) == 1 and all(each and each.get("kind") == "isolated" for each in found)
    return ", ".join(lost) if alone and len(lost) > 1 else ""


def first_failure(
    exits: Mapping[str, Mapping[str, Any]],
    lost: Mapping[str, str],
    clock_offsets: Mapping[str, float],
) -> Failure | None:
    """The earliest failure that no other rank's end explains.

    None, or only symptoms: what a host was told by one that can't be asked; else a host that is
    lost is the cause; else the earliest symptom.
    """
    found = [_failure(host, e, clock_offsets.get(host, 0.0)) for host, e in exits.items()]
    failures = [failure for failure in found if failure]
    first = min(failures, key=lambda f: (f.symptom, f.at or 0.0), default=None)
    heard = _heard(exits)
    if heard and (first is None or (first.symptom and not heard.symptom)):
        return heard
    if first and (others := _unreachable(exits, lost)):
        named = f"{others} lost power, or their network, together: {first.host}, which the "
        reason = named + f"controller reaches, {first.reason.partition(': its network')[0]}"
        return replace(first, host=next(iter(lost)), reason=reason, rank=None, local_rank=None)
    if lost and (first is None or first.symptom):
        host, reason = next(iter(lost.items()))
        return Failure(host=host, rank=None, local_rank=None, at=None, reason=reason)
    return first


def _run_state(
    exits: Mapping[str, Mapping[str, Any]], lost: Mapping[str, str], *, stopping: bool
) -> State:
    states = {_node_state(e, stopping=stopping) for e in exits.values()}
    states |= {State.LOST} if lost else set()
    states |= {State.FAILED} if not stopping and _heard(exits) else set()
    worst = (State.FAILED, State.LOST, State.UNKNOWN, State.STOPPED)
    return next((state for state in worst if state in states), State.FINISHED)


def _node_state(ended: Mapping[str, Any], *, stopping: bool) -> State:
    """While a run is being stopped, a rank may see its peer go before it is told to go itself."""
    found = ended["first_failure"]
    if stopping and ended["state"] == State.FAILED and found and found.get("symptom"):
        return State.STOPPED
    return State.parse(ended["state"])


def parse_outcome(
    run: str,
    exits: Mapping[str, Mapping[str, Any]],
    *,
    lost: Mapping[str, str] | None = None,
    clock_offsets: Mapping[str, float] | None = None,
    stopping: bool = False,
) -> RunOutcome:
    """The outcome of a run from its hosts' exit.json, in node_rank order.

    ``lost``: why, for each host without one. ``clock_offsets``: how many seconds each host's clock
    is ahead of the controller's; none means taken as equal. ``stopping``: somebody asked for the
    run to be stopped, so what only reads as a consequence of that is no failure.
    """
    gone, offsets = lost or {}, clock_offsets or {}
    if not exits and not gone:
        raise ValueError("a run has at least one host")
    ranks = (
        RankEnd(
            host=host,
            node_rank=ended["node_rank"],
            **{**rank, "state": State.parse(rank["state"])},
        )
        for host, ended in exits.items()
        for rank in ended["ranks"]
    )
    losses = [ended["loss"] for ended in exits.values() if ended["loss"]]
    spans = [
        (ended["started_at"] - offsets.get(host, 0.0), ended["ended_at"] - offsets.get(host, 0.0))
        for host, ended in exits.items()
    ]
    state = _run_state(exits, gone, stopping=stopping)
    return RunOutcome(
        run=run,
        state=state,
        ranks=tuple(sorted(ranks, key=lambda r: r.rank)),
        first_failure=None if state == State.STOPPED else first_failure(exits, gone, offsets),
        lost=dict(gone),
        loss=(losses[0][0], losses[0][1]) if losses else None,
        jit_compiled=tuple(f"{h}:{name}" for h, e in exits.items() for name in e["jit_compiled"]),
        seconds=max(e for _, e in spans) - min(s for s, _ in spans) if spans else None,
    )

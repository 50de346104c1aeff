"""What a person sees of a run, and who must be told to stop: pure, fed with follow's events.

One ``advance`` for each event; the caller shows its lines, tells the hosts in ``stop`` to stop,
and is done when ``done`` says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from provision.launch.pace import RankPace, parse_pace, slow_words
from provision.launch.states import State

#: Seconds without any event after which a connection counts as dead: four missed heartbeats of
#: follow.py. sshd and the kernel notice a cut link only after minutes.
SILENCE = 20.0
#: The same for a host of a run that has ended because the others heard nothing of one any more: one
#: missed heartbeat of follow.py, and a busy machine's delay.
QUIET = 8.0


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where training was at some moment: seconds since 1970, steps, tokens (None: not counted)."""

    at: float
    step: int
    tokens: int | None


@dataclass(frozen=True, kw_only=True)
class HostWatch:
    """One host of a watched run. ``exit`` is its exit.json, ``reason`` why it is lost.

    ``offsets`` is where to go on reading (follow's ``--from-offsets``), ``seen`` the time of the
    last event, ``told`` whether it was told to stop, ``link`` whether it is lost to this controller
    alone, for all that is known.
    """

    state: State = State.RUNNING
    exit: Mapping[str, Any] | None = None
    reason: str = ""
    offsets: Mapping[str, int] = field(default_factory=dict)
    seen: float = 0.0
    told: bool = False
    link: bool = False


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A run being watched, in node_rank order. ``since`` is what rates are measured from.

    ``pace``: each rank's own, as it was last told.
    """

    hosts: Mapping[str, HostWatch]
    since: Mark | None = None
    pace: Mapping[int, RankPace] = field(default_factory=dict)

    @property
    def running(self) -> tuple[str, ...]:
        """Hosts whose node has not ended, as far as known."""
        return tuple(name for name, host in self.hosts.items() if host.state == State.RUNNING)

    @property
    def exits(self) -> dict[str, Mapping[str, Any]]:
        """exit.json of the hosts that gave one."""
        return {name: host.exit for name, host in self.hosts.items() if host.exit is not None}

    @property
    def lost(self) -> dict[str, str]:
        """Why, for each host that can't say how its node ended."""
        return {name: host.reason for name, host in self.hosts.items() if host.state == State.LOST}

    @property
    def unreached(self) -> dict[str, str]:
        """Why, for each host that there is no connection to any more."""
        return {name: host.reason for name, host in self.hosts.items() if host.link}

    def silent(self, now: float, seconds: float = SILENCE) -> tuple[str, ...]:
        """Running hosts not heard of for so many seconds: connect to them anew."""
        return tuple(name for name in self.running if now - self.hosts[name].seen > seconds)

    def gone(self, now: float) -> dict[str, str]:
        """Why, for each host that is lost by what those say that have ended, and by its silence.

        A connection to a host without power says nothing for half a minute; the run's other hosts
        know after seconds. One that they only don't hear any more, because the network among them
        is cut, still says here how it ends, and is waited for.
        """
        quiet = self.silent(now, QUIET)
        witness = next((name for name, ended in self.exits.items() if _misses(ended)), None)
        why = f"no answer for {QUIET:.0f} s here, and none at {witness}"
        return {name: why for name in quiet if witness}


def _misses(ended: Mapping[str, Any]) -> bool:
    """Whether a node has ended because a host was not heard any more, or none was."""
    causes = (ended.get("first_failure"), ended.get("stopped_by"))
    return any(cause and cause.get("kind") in ("lost", "isolated") for cause in causes)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What follows from one event: the new watch, lines to show, hosts to be told to stop now."""

    watch: Watch
    lines: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether every host has ended or is lost."""
        return not self.watch.running


def begin_watch(hosts: Sequence[str], now: float) -> Watch:
    """A watch over hosts in node_rank order; ``now`` as in every call here, one monotonic clock."""
    return Watch(hosts={name: HostWatch(seen=now) for name in hosts})


def stop_all(watch: Watch, why: str) -> Turn:
    """Every running host that was not told yet is to be told to stop."""
    stop = tuple(name for name in watch.running if not watch.hosts[name].told)
    told = {name: replace(watch.hosts[name], told=True) for name in stop}
    lines = (f"stopping {', '.join(stop)}: {why}",) if stop else ()
    return Turn(watch=replace(watch, hosts={**watch.hosts, **told}), lines=lines, stop=stop)


def advance(watch: Watch, host: str, event: Mapping[str, Any], now: float) -> Turn:
    """What follows from one event of a host.

    The caller may feed ``{"lost": reason, "link": True}`` itself, for a host that it can't reach.
    """
    seen = replace(watch.hosts[host], seen=now)
    for key in ("log", "metric"):
        if key in event and "offset" in event:
            seen = replace(seen, offsets={**seen.offsets, key: event["offset"]})
    watch = replace(watch, hosts={**watch.hosts, host: seen})
    if "exit" in event or "lost" in event:
        return _ended(watch, host, event) if seen.state == State.RUNNING else Turn(watch=watch)
    if "log" in event:
        return Turn(watch=watch, lines=(f"[{host}] {event['log']}",))
    if "metric" in event:
        try:
            return _metric(watch, event["metric"])
        except (AttributeError, KeyError, TypeError, ValueError):
            # A script of the user's own may write anything there: it is shown as what it is.
            line = f"[{host}] metrics.jsonl: {json.dumps(event['metric'])[:200]}"
            return Turn(watch=watch, lines=(line,))
    if event.get("pace"):
        watch = replace(watch, pace={**watch.pace, **parse_pace(host, event["pace"])})
    return Turn(watch=watch)


def _ended(watch: Watch, host: str, event: Mapping[str, Any]) -> Turn:
    """A host has ended: unless it finished, the others wait for it in vain.

    But for one that only this controller can't reach any more: its run may go on.
    """
    ended = event.get("exit")
    state = State.parse(ended["state"]) if ended else State.LOST
    reason = "" if ended else str(event["lost"])
    link = bool(event.get("link"))
    now = replace(watch.hosts[host], state=state, exit=ended, reason=reason, link=link)
    watch = replace(watch, hosts={**watch.hosts, host: now})
    if state == State.FINISHED:
        return Turn(watch=watch, lines=(f"[{host}] finished",))
    if ended and (first := ended["first_failure"]):
        about = first.get("host") or host  # one that fell silent is named by those that live
        reason = first["reason"] if about == host else f"{about}: {first['reason']}"
    line = f"[{host}] {state}{': ' + reason if reason else ''}"
    if link:
        return Turn(watch=watch, lines=(line,))
    rest = stop_all(watch, f"{host} {'was stopped' if state == State.STOPPED else state}")
    # One whose supervisor was killed, torchrun with it, may have ranks that nobody else ends.
    own = (host,) if state == State.LOST else ()
    return replace(rest, lines=(line, *rest.lines), stop=(*rest.stop, *own))


def _metric(watch: Watch, metric: Mapping[str, Any]) -> Turn:
    """A line of rank 0's metrics.jsonl (its events: trainer/metrics.py)."""
    event = metric.get("event")
    if event == "begin":
        mark = Mark(at=metric["at"], step=metric["first_step"], tokens=0)
        return Turn(watch=replace(watch, since=mark), lines=(begin_line(metric),))
    if event == "step":
        here = Mark(at=metric["at"], step=metric["step"], tokens=metric.get("tokens"))
        line = step_line(metric, watch.since, here, tuple(watch.pace.values()))
        # The first step also pays for compiling and warming up: measure from its end on.
        return Turn(watch=replace(watch, since=_from_first_step(watch.since, here)), lines=(line,))
    if event == "eval":
        return Turn(watch=watch, lines=(f"step {metric['step']}  evaluation loss {_loss(metric)}",))
    return Turn(watch=watch)


def _from_first_step(since: Mark | None, here: Mark) -> Mark:
    # Only the begin event's mark has no tokens yet.
    return here if since is None or since.tokens == 0 else since


def begin_line(metric: Mapping[str, Any]) -> str:
    """What is about to be trained, and how."""
    offload = f", {metric['offload']} offloaded" if metric.get("offload") else ""
    zero = f"ZeRO-{metric['zero_stage']}{offload}" if metric.get("zero_stage") else "no ZeRO"
    return (
        f"training {metric['trainable_parameters']:,} of {metric['parameters']:,} parameters on "
        f"{metric['world_size']} ranks, {zero}, {metric['optimizer']}: {metric['total_steps']} "
        f"steps of {metric['effective_batch']} rows"
    )


def step_line(
    metric: Mapping[str, Any], since: Mark | None, here: Mark, paces: Sequence[RankPace] = ()
) -> str:
    """``step 12/50  loss 2.31  1.9k tok/s  0:21 left``: what is not known is left out."""
    parts = [f"step {metric['step']}/{metric['total_steps']}", f"loss {_loss(metric)}"]
    if since and here.at > since.at:
        seconds = here.at - since.at
        if here.tokens is not None and since.tokens is not None:
            parts.append(f"{short((here.tokens - since.tokens) / seconds)} tok/s")
        if here.step > since.step:
            left = (metric["total_steps"] - here.step) * seconds / (here.step - since.step)
            parts.append(f"{clock(left)} left")
    if gpus := [pace.device_bytes for pace in paces if pace.device_bytes is not None]:
        parts.append(f"GPU {max(gpus) / 1e9:.1f} GB")
    return "  ".join(part for part in (*parts, slow_words(paces)) if part)


def _loss(metric: Mapping[str, Any]) -> str:
    # JSON has no NaN: the trainer writes null.
    return "not a finite number" if metric["loss"] is None else f"{metric['loss']:.4g}"


def short(number: float) -> str:
    """A number in at most four characters and a letter: 312, 1.9k, 42k, 1.3M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.{1 if number < 10 * size else 0}f}{unit}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

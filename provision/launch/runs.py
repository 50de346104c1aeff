"""The runs on the hosts, as the hosts tell them: which there are, which one is meant, how it does.

Nothing here is remembered by a controller: any controller with access to the hosts sees the same.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.errors import ConfigError, ProvisionError
from provision.fleet import Fleet
from provision.launch.failure import RunOutcome, parse_outcome
from provision.launch.pace import RankPace, parse_pace, slow_words
from provision.launch.progress import clock, short
from provision.launch.spec import LAUNCHERS
from provision.launch.states import State
from provision.session import Remote

LAST = "last"
COLUMNS = ("run", "state", "started", "by", "what", "ranks", "step", "loss", "hosts")

Nodes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """One run: what each of its hosts says of it (onhost/runs.py), in node_rank order.

    ``clock_offsets``: seconds that each host's clock is ahead of this one.
    """

    run: str
    nodes: Nodes
    clock_offsets: Mapping[str, float] = field(default_factory=dict)

    @property
    def _first(self) -> Mapping[str, Any]:
        return next(iter(self.nodes.values()))

    @property
    def nnodes(self) -> int:
        """How many hosts the run was planned for."""
        return int(self._first["nnodes"])

    @property
    def unheard(self) -> int:
        """How many of its hosts did not tell of it: not in the hosts file, or not reached."""
        return max(0, self.nnodes - len(self.nodes))

    @property
    def run_dirs(self) -> dict[str, str]:
        """The run's folder on each host."""
        return {host: str(node["run_dir"]) for host, node in self.nodes.items()}

    @property
    def outputs(self) -> dict[str, str]:
        """Where each host's node writes its results."""
        return {
            host: str(node["output"] or f"{node['run_dir']}/output")
            for host, node in self.nodes.items()
        }

    @property
    def node0(self) -> str | None:
        """The host of global rank 0, which keeps the record; None if it did not tell."""
        return next((h for h, node in self.nodes.items() if node["node_rank"] == 0), None)

    @property
    def launcher(self) -> str:
        """What started the ranks of each node."""
        by_deepspeed = "deepspeed.launcher.launch" in self._first.get("argv", ())
        return LAUNCHERS[1] if by_deepspeed else LAUNCHERS[0]

    @property
    def progress(self) -> Mapping[str, Any]:
        """Steps, loss and rates, as rank 0's host has them."""
        found: Mapping[str, Any] = self.nodes[self.node0]["progress"] if self.node0 else {}
        return found

    @property
    def paces(self) -> tuple[RankPace, ...]:
        """Each rank's own pace, of those that told."""
        by_host = (parse_pace(host, node.get("pace") or ()) for host, node in self.nodes.items())
        return tuple(pace for found in by_host for pace in found.values())

    @property
    def started_at(self) -> float:
        """When the first node started, by this controller's clock."""
        times = (n["started_at"] - self.clock_offsets.get(h, 0.0) for h, n in self.nodes.items())
        return float(min(times))

    @property
    def running(self) -> tuple[str, ...]:
        """Hosts whose node has not ended."""
        return tuple(host for host, node in self.nodes.items() if node["state"] == State.RUNNING)

    @property
    def state(self) -> State:
        """One word for all hosts; the worst that is known. A host that did not tell is unknown."""
        if ended := self.ended:
            well = ended.state in (State.STOPPED, State.FINISHED)
            return State.UNKNOWN if self.unheard and well else ended.state
        states = {str(node["state"]) for node in self.nodes.values()}
        known = (State.RUNNING, State.NEVER_STARTED)
        return next((state for state in known if state in states), State.UNKNOWN)

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for its stop."""
        return any(node["stopping"] for node in self.nodes.values())

    @property
    def saving(self) -> bool:
        """Whether its stop waits for a checkpoint."""
        return any(node.get("saving") for node in self.nodes.values())

    @property
    def stop_came_first(self) -> bool:
        """Whether its stop was asked for before anything failed: what failed then only followed.

        The hosts' clocks are known to a second.
        """
        ours = {host: self.clock_offsets.get(host, 0.0) for host in self.nodes}
        nodes = self.nodes.items()
        asked = [n["stop_asked_at"] - ours[h] for h, n in nodes if n["stop_asked_at"] is not None]
        first = [(host, (node["exit"] or {}).get("first_failure")) for host, node in nodes]
        failed = [failure["at"] - ours[host] for host, failure in first if failure]
        return bool(asked) and min(asked) <= min(failed, default=min(asked)) + 1.0

    @property
    def ended(self) -> RunOutcome | None:
        """What became of it; None while it runs, or before it was started."""
        exits = {host: node["exit"] for host, node in self.nodes.items() if node["exit"]}
        lost = {host: str(node["why"]) for host, node in self.nodes.items() if node["why"]}
        if self.running or not (exits or lost):
            return None
        return parse_outcome(
            self.run,
            exits,
            lost=lost,
            clock_offsets=self.clock_offsets,
            stopping=self.stop_came_first,
        )

    @property
    def nranks(self) -> int:
        """How many ranks its hosts have, of those that told."""
        return sum(int(node["nproc_per_node"]) for node in self.nodes.values())

    @property
    def what(self) -> str:
        """What runs, and by which DeepSpeed configuration: "trainer.sft zero2"."""
        words = [self._first["what"], (self._first["deepspeed"] or "").removesuffix(".json")]
        return " ".join(word for word in words if word)

    def as_json(self) -> dict[str, object]:
        """The run with all that its hosts say; keys are only ever added."""
        ended = self.ended
        return {
            "run": self.run,
            "state": self.state,
            "stopping": self.stopping,
            "started_at": self.started_at,
            "by": self._first["by"],
            "what": self.what,
            "model": self._first["model"],
            "nnodes": self.nnodes,
            "unheard": self.unheard,
            "progress": dict(self.progress),
            "nodes": {host: dict(node) for host, node in self.nodes.items()},
            "outcome": ended.as_json() if ended else None,
        }

    def row(self, now: float) -> tuple[str, ...]:
        """The run in one line, by COLUMNS."""
        progress = self.progress
        loss = (progress.get("loss") or (None, None))[1]
        hosts = ", ".join(self.nodes) + (f" (+{self.unheard} unheard)" if self.unheard else "")
        return (
            self.run,
            "stopping" if self.stopping else self.state,
            f"{clock(max(0.0, now - self.started_at))} ago",
            str(self._first["by"]),
            self.what,
            str(self.nranks),
            _steps(progress),
            "" if loss is None else f"{loss:.4g}",
            hosts,
        )

    def lines(self) -> tuple[str, ...]:
        """The run for a person, beside the table of its ranks."""
        progress, state = self.progress, "stopping" if self.stopping else self.state
        parts = [f"run {self.run}: {state}", self.what, f"{self.nranks} ranks"]
        if progress.get("step") is not None:
            parts.append(f"step {_steps(progress)}")
            loss = progress["loss"][1]
            parts.append("loss not a finite number" if loss is None else f"loss {loss:.4g}")
        if self.running and progress.get("tokens_per_second"):
            parts.append(f"{short(progress['tokens_per_second'])} tok/s")
        if self.running and progress.get("seconds_left") is not None:
            parts.append(f"{clock(progress['seconds_left'])} left")
        said = [", ".join(part for part in parts if part)]
        if self.running and (slow := slow_words(self.paces)):
            said.append(slow)
        if self.unheard:
            said.append(f"{self.unheard} of its {self.nnodes} hosts did not tell of it")
        return tuple(said)


def _steps(progress: Mapping[str, Any]) -> str:
    total, step = progress.get("total_steps"), progress.get("step")
    return "" if step is None else f"{step}/{total}"


def make_runs(
    answers: Mapping[str, Mapping[str, Any]], clock_offsets: Mapping[str, float]
) -> tuple[KnownRun, ...]:
    """The runs that hosts told of, oldest first."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for host, answer in answers.items():
        for run in answer["runs"]:
            found.setdefault(str(run["run"]), {})[host] = run
    runs = [
        KnownRun(
            run=name,
            nodes=dict(sorted(nodes.items(), key=lambda item: int(item[1]["node_rank"]))),
            clock_offsets=clock_offsets,
        )
        for name, nodes in found.items()
    ]
    return tuple(sorted(runs, key=lambda run: (run.started_at, run.run)))


def choose_run(runs: Sequence[KnownRun], wanted: str) -> KnownRun:
    """The run that a user means: its id, the beginning of it, its last letters, or ``last``.

    Raises ConfigError if there is none, or several that it could be.
    """
    if wanted == LAST and runs:
        return runs[-1]
    exact = [run for run in runs if run.run == wanted]
    fits = exact or [r for r in runs if r.run.startswith(wanted) or r.run.endswith(f"-{wanted}")]
    if len(fits) == 1:
        return fits[0]
    names = [run.run for run in fits or runs]
    shown = ", ".join(names[-5:]) + (f" and {len(names) - 5} older" if len(names) > 5 else "")
    raise ConfigError(
        f"run {wanted}",
        found=f"{len(fits)} that it could be: {shown}" if fits else "none of that name",
        expected="the id of a run on these hosts, the beginning of one, or last",
        remedy="give more of it" if fits else f"there are {shown or 'none yet'}",
    )


def gather_runs(
    fleet: Fleet, timeout: float | None = None
) -> tuple[tuple[KnownRun, ...], dict[str, ProvisionError]]:
    """The runs on the hosts, oldest first; and the errors of hosts that could not be asked.

    Clocks are corrected by what the answers themselves say, to whole seconds: what is less is the
    time that an answer was on its way. ``timeout``: the seconds that a host has for its answer.
    """

    def call(remote: Remote) -> tuple[dict[str, Any], float]:
        asked = time.time()
        answer: dict[str, Any] = remote.ask("runs", ["list"], timeout=timeout)
        return answer, float(round(answer["now"] - (asked + time.time()) / 2))

    found = fleet.fan_out(call)
    answers = {h: a for h, a in found.items() if not isinstance(a, ProvisionError)}
    errors = {h: a for h, a in found.items() if isinstance(a, ProvisionError)}
    offsets = {host: offset for host, (_, offset) in answers.items()}
    return make_runs({host: answer for host, (answer, _) in answers.items()}, offsets), errors


def gather_run(fleet: Fleet, run: KnownRun, unreached: Collection[str] = ()) -> KnownRun:
    """The same run, looked at again, with its ranks' processes.

    A host that can't be asked any more stays as it was, but says so as ``lost``; one that is
    ``unreached`` is not asked.
    """
    args: dict[str, Sequence[str]] = {h: ["show", run.run] for h in run.nodes if h not in unreached}
    nodes = dict(run.nodes)
    for host, answer in (fleet.ask("runs", args) if args else {}).items():
        if isinstance(answer, ProvisionError):
            nodes[host] = {
                **nodes[host],
                "state": State.LOST,
                "why": f"not reached: {answer.found}",
            }
            continue
        found: Any = answer["runs"]
        if found:
            nodes[host] = found[0]
    return KnownRun(run=run.run, nodes=nodes, clock_offsets=run.clock_offsets)

"""``logs`` of a run that Slurm runs: its files, as they grow, over all attempts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from provision.commands.runs.logs import log_lines, require_an_end, shown_hosts
from provision.launch.runs import KnownRun
from provision.onhost.follow import Tail
from provision.settings import Settings
from provision.show import Answer
from provision.slurm.jobs import SlurmJob, read_job
from provision.slurm.read import job_of, read_attempt, read_nodes, read_run
from provision.slurm.render import JOB_LOG

#: Seconds between two looks at the files, and two questions to Slurm's controller.
POLL, ASK = 0.5, 5.0
#: The job's own log among those of its nodes.
JOB = "job"


class Logs:
    """The logs that are wanted: the job's own, and those of its nodes in every attempt seen."""

    def __init__(self, run_dir: Path, run: KnownRun, s: Settings) -> None:
        shown_hosts(run, s)  # refuses a host or a rank that the run has not
        self._run_dir, self._s, self._shows = run_dir, s, log_lines(s.rank)
        self._nproc = int(next(iter(run.nodes.values()))["nproc_per_node"])
        self._tails: dict[Path, tuple[str, Tail]] = {}

    def _files(self) -> Iterator[tuple[str, Path]]:
        if self._s.host is None and self._s.rank is None:
            yield JOB, self._run_dir / JOB_LOG
        attempt = read_attempt(self._run_dir)
        for node_rank, name in enumerate(read_nodes(self._run_dir)):
            if self._s.host not in (None, name):
                continue
            if attempt and self._s.rank in (None, *self._ranks(node_rank)):
                yield name, attempt / f"node{node_rank}" / "node.log"

    def _ranks(self, node_rank: int) -> range:
        return range(node_rank * self._nproc, (node_rank + 1) * self._nproc)

    def read_new(self, *, final: bool, tail: int | None = None) -> dict[str, list[str]]:
        """New lines by node; ``tail``: no more than so many of each file, the last."""
        for name, path in self._files():
            self._tails.setdefault(path, (name, Tail(str(path), 0)))
        found: dict[str, list[str]] = {}
        for name, tailed in self._tails.values():  # those of an attempt that is over, too
            found.setdefault(name, []).extend(self._lines(tailed, final=final, tail=tail))
        return found

    def _lines(self, tailed: Tail, *, final: bool, tail: int | None = None) -> list[str]:
        lines = [line for line, _ in tailed.read(final) if self._shows({"log": line})]
        return lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]


def apply_logs(out: Answer, s: Settings, run_dir: Path) -> None:
    """Show what the ranks of the latest attempt printed; with --follow as it comes."""
    require_an_end(out, s)
    job = read_job(job_of(run_dir))
    run = read_run(run_dir, job)
    logs = Logs(run_dir, run, s)
    lines = logs.read_new(final=False, tail=s.tail)
    out.add(run=run.run, lines=lines, job_log=str(run_dir / JOB_LOG))
    show_lines(out.text, lines)
    if s.follow:
        follow(out, job, lambda final: show_lines(out.text, logs.read_new(final=final)))


def show_lines(say: Callable[[str], None], lines: dict[str, list[str]]) -> None:
    """Each line with its node, as those of runs over SSH."""
    for host, some in lines.items():
        for line in some:
            say(f"[{host}] {line}")


def follow(out: Answer, job: SlurmJob, look: Callable[[bool], None]) -> SlurmJob:
    """Look at the run's files until its job is over; the job as it is then. Says how it changes.

    ``look(True)`` is the last: no line is still being written.
    """
    asked = time.monotonic()
    while True:
        if time.monotonic() - asked > ASK:
            before, job, asked = job, read_job(job.job), time.monotonic()
            if (job.state, job.restarts) != (before.state, before.restarts):
                out.say(str(job))
        over = not (job.waits or job.runs)
        look(over)
        if over:
            return job
        time.sleep(POLL)

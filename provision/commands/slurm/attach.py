"""``attach`` of a run that Slurm runs: follow its job to the end, and collect it."""

from __future__ import annotations

import json
from pathlib import Path

from provision import errors
from provision.commands.runs.attach import ATTACH_TAIL
from provision.commands.slurm.logs import JOB, Logs, follow, show_lines
from provision.launch.progress import advance, begin_watch
from provision.launch.results import RunResult, read_optimizer
from provision.onhost.follow import Tail, last_lines
from provision.settings import Settings
from provision.show import Answer
from provision.slurm.collect import apply_results
from provision.slurm.jobs import SlurmJob, read_job
from provision.slurm.read import job_of, read_run


def apply_attach(out: Answer, s: Settings, run_dir: Path) -> None:
    """Follow the job until it ends, then collect its run; after Ctrl-C it runs on."""
    job = read_job(job_of(run_dir))
    run = read_run(run_dir, job)
    if job.waits or job.runs:
        out.say(f"attached to {run.run}; Ctrl-C leaves it running")
    out.say(str(job))
    logs, metrics = Logs(run_dir, run, s), run_dir / "metrics.jsonl"
    show_lines(out.say, logs.read_new(final=False, tail=ATTACH_TAIL))
    steps, watch = Tail(str(metrics), last_lines(str(metrics), ATTACH_TAIL)), begin_watch((JOB,), 0)

    def look(final: bool) -> None:
        nonlocal watch
        show_lines(out.say, logs.read_new(final=final))
        for line, _ in steps.read(final):
            turn = advance(watch, JOB, {"metric": json.loads(line)}, 0)
            watch = turn.watch
            for said in turn.lines:
                out.say(said)

    try:
        job = follow(out, job, look)
    except KeyboardInterrupt:
        out.add(run=run.run, state=run.state, slurm=job.as_json())
        out.say(f"detached; it keeps running: invoke attach {run.run}, invoke stop {run.run}")
        out.exit = errors.INTERRUPTED
        return
    _show_end(out, s, run_dir, job)


def _show_end(out: Answer, s: Settings, run_dir: Path, job: SlurmJob) -> None:
    """Collect a run that is over, and say how it ended."""
    run = read_run(run_dir, job)
    folder = s.runs / run.run
    apply_results(run, run_dir, folder, out.say)
    outcome = run.ended
    assert outcome is not None, "every node of a job that is over has ended, or is lost"
    first = next(iter(run.nodes))
    result = RunResult(
        outcome=outcome,
        interrupted=False,
        collected=folder,
        adapter=folder / "output",
        optimizer=read_optimizer(folder / "hosts" / first / "metrics.jsonl"),
    )
    out.add(slurm=job.as_json())
    out.outcome(result)

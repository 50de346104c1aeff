"""``resume`` of a run that Slurm runs: its job file, submitted once more."""

from __future__ import annotations

from pathlib import Path

from provision.commands.flags import LIMITS, LOCK, WHEEL
from provision.errors import ConfigError
from provision.launch.checkpoints import require_step, step_lines
from provision.launch.runs import KnownRun
from provision.settings import Settings
from provision.show import Answer
from provision.slurm.jobs import read_job
from provision.slurm.read import job_of, read_here, read_run
from provision.slurm.render import JOB_FILE, goes_on
from provision.slurm.submit import plan_submit
from provision.slurm.waiting import apply_queued
from provision.steps import Phase, Plan, Step

#: Flags of resume that say how a run over SSH is to go on.
_OVER_SSH = (
    *WHEEL, *LOCK, *LIMITS, "env", "master_addr", "master_port", "detach", "retries",
    "retry_within",
)  # fmt: skip


def apply_resumed(out: Answer, s: Settings, run_dir: Path) -> None:
    """Submit the same job file once more: it goes on from the newest checkpoint, as if requeued."""
    if other := [flag for flag in _OVER_SSH if flag in s.given]:
        flag = f"--{other[0].replace('_', '-')}"
        raise ConfigError(
            flag,
            found="the run of a Slurm job, whose job file says how it goes on",
            expected="a run over SSH",
            remedy=f"leave {flag} out, or edit {run_dir / JOB_FILE}",
        )
    job = read_job(job_of(run_dir))
    run = read_run(run_dir, job)
    if job.waits or job.runs:
        raise ConfigError(
            f"resume {run.run}",
            found=str(job),
            expected="a job that is over",
            remedy=f"stop it first: invoke stop {run.run}",
        )
    step, said = read_step(run, run_dir)
    out.add(resumed_from=run.run, resumed_step=step)
    for line in said:
        out.say(line)
    out.plan(plan_again(run, run_dir))
    again, reason = apply_queued(run_dir, run.run)
    out.add(**again.as_json(), waits_for=reason or None)
    out.text(again.job)
    if reason:
        out.say(f"it waits: {reason}")


def read_step(run: KnownRun, run_dir: Path) -> tuple[int | None, tuple[str, ...]]:
    """The step that a run goes on from, None if that is not known; and what is to be said of that.

    Raises ConfigError for a job file that would start from the beginning; as require_step, too.
    """
    if not goes_on((run_dir / JOB_FILE).read_text(encoding="utf-8")):
        raise ConfigError(
            f"resume {run.run}",
            found="a job file that always starts from the beginning (--restarts 0)",
            expected="one that goes on from its newest checkpoint",
            remedy="train again, with --restarts 1 or more",
        )
    if not run.what.startswith("trainer."):
        return None, ("a script of your own: it goes on as it does when its job is requeued",)
    output = run.outputs[next(iter(run.nodes))]
    there = read_here("checkpoints", ["list", output])
    # Every node sees the same folder.
    step, torn = require_step(run, dict.fromkeys(run.nodes, there))
    return step, step_lines(step, torn)


def plan_again(run: KnownRun, run_dir: Path) -> Plan:
    """Submit the run's job file."""
    step = Step(host="Slurm", do=plan_submit(run_dir), why="its folder and checkpoints stay")
    return Plan(title=f"resume {run.run}", phases=(Phase(name="submit", steps=(step,)),))

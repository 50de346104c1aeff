"""The run that train would start over SSH, as a Slurm job: what ``invoke slurm`` does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.commands.deploy.packages import read_spec
from provision.errors import ConfigError
from provision.launch.manual import local_paths
from provision.launch.plan import LaunchPlan, plan_json, plan_launch
from provision.launch.prepare import Program, read_new_run_id, read_program, with_program
from provision.launch.spec import RunHost, parse_run
from provision.script import script_argv
from provision.settings import CHECKOUT, Settings
from provision.show import Answer
from provision.slurm.render import FROM_JOB_ID, MASTER_ADDR, render
from provision.slurm.spec import RESTARTS, SlurmSpec, parse_slurm_spec
from provision.slurm.submit import apply_folder, read_forecast
from provision.slurm.waiting import apply_queued

#: What the seeds' job files ask of each node, where a run says nothing else.
NODES, GPUS, CPUS = 2, "8", 10


def read_environment(s: Settings, shared: Path) -> tuple[str, str]:
    """The Python of the nodes and its accelerator: named, or of the environment for the wheel."""
    if s.python:
        if not s.accelerator:
            raise ConfigError(
                "--accelerator", found="nothing", expected="cuda or cpu", remedy="name one of them"
            )
        return str(Path(s.python).expanduser().absolute()), s.accelerator
    env = read_spec(s)
    return read_nodes_python(shared, env.name), env.manifest.accelerator


def read_nodes_python(shared: Path, name: str) -> str:
    """The Python of an environment: in the shared folder or, if it is not there, in HOME.

    This machine sees the shared folder. What it does not see there can only be where deploy --slurm
    puts it without --shared: in each node's own home.
    """
    path = f".zerofleet/envs/{name}/bin/python"
    return str(shared / path if (shared / path).exists() else Path.home() / path)


def make_job(s: Settings, program: Program) -> SlurmSpec:
    """What is wanted of Slurm."""
    whole = s.exclusive and not s.cpus_per_task
    restarts = 0 if program.script else RESTARTS
    return parse_slurm_spec(
        nodes=s.nodes or NODES,
        gpus=s.gpus or GPUS,
        time=s.time,
        job_name=s.job_name or f"zerofleet-{program.objective}",
        partition=s.partition,
        account=s.account,
        qos=s.qos,
        constraint=s.constraint,
        cpus_per_task=None if whole else s.cpus_per_task or CPUS,
        mem=s.mem,
        exclusive=s.exclusive,
        more=s.sbatch,
        lead=s.lead,
        restarts=restarts if s.restarts is None else s.restarts,
        preflight=not s.no_preflight,
    )


def on_shared(s: Settings) -> Settings:
    """The same settings with whole paths: a job has no current folder, and HOME may be another."""
    if s.zero_auto:
        raise ConfigError(
            "--zero",
            found="auto",
            expected="1, 2 or 3: no node can be asked before Slurm has chosen it",
            remedy="see `invoke memory --gpus` for what fits such nodes",
        )
    whole: dict[str, Any] = {**local_paths(s, Path.home(), Path.cwd())}
    return replace(s, **whole)


def read_slurm_plan(s: Settings) -> tuple[LaunchPlan, SlurmSpec, Program]:
    """The run and its job, from settings alone: no node is asked."""
    s, shared = on_shared(s), s.shared or Path.home()
    program = read_program(s, CHECKOUT, sys.argv)
    job = make_job(s, program)
    python, accelerator = read_environment(s, shared)
    hosts = tuple(
        RunHost(
            name=f"node{rank}",
            slots=job.gpus,
            nproc_per_node=job.gpus,
            home=str(shared),
            cores=job.cpus_per_task,
        )
        for rank in range(job.nodes)
    )
    base = parse_run(
        run=read_new_run_id(program),
        hosts=hosts,
        master_addr=MASTER_ADDR,
        master_port=s.master_port if "master_port" in s.given else FROM_JOB_ID,
        output=s.output,
        python=python,
        accelerator=accelerator,
        launcher=s.launcher,
        environ=program.environ,
        by_hand=0,
    )
    goes_on = {"resume_from_checkpoint": "latest-if-any"} if job.restarts else {}
    spec = with_program(
        base,
        program,
        zero=s.zero,
        offload=s.offload,
        model=s.model or "",
        data=s.data or "",
        overrides={**goes_on, **s.set},
    )
    return plan_launch(spec, program.code, script_argv), job, program


def apply_slurm(out: Answer, s: Settings) -> None:
    """Print the job file; with --file or --submit make the run's folder, and submit it."""
    launch, job, program = read_slurm_plan(s)
    text = render(launch, job)
    run_dir = Path(launch.nodes[0].run_dir)
    out.add(run=launch.run, sbatch=text)
    shared = s.shared or Path.home()
    if not s.python and not Path(launch.spec.python).is_relative_to(shared):
        out.say(f"no environment in {shared}: each node uses its own, {launch.spec.python}")
    if out.dry_run:
        forecast = read_forecast(text)
        out.add(forecast=forecast)
        out.text(text)
        out.say(forecast)
        return
    if not (s.file or s.submit or s.slurm):
        out.text(text.rstrip("\n"))
        out.say("nothing was made: --submit submits it; --file FILE makes what `sbatch FILE` needs")
        return
    submits = s.submit or s.slurm
    if submits:
        read_forecast(text)  # what Slurm refuses leaves no folder behind
    plan = plan_json(launch.spec, launch.nodes[0])
    apply_folder(run_dir, text, program.code, launch.spec.environ.secret, plan)
    if s.file:
        s.file.write_text(text, encoding="utf-8")
        out.add(file=str(s.file))
        out.say(f"{s.file}: its logs and results go to {run_dir}")
    if submits:
        done, reason = apply_queued(run_dir, launch.run, made=not s.file)
        out.add(**done.as_json(), waits_for=reason or None)
        out.text(done.job)
        out.say(f"run {done.run}, log {run_dir / 'job.log'}")
        if reason:
            out.say(f"it waits: {reason}")

"""An ended run again, as it was, from its newest checkpoint that is whole on all hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from provision.commands.connect import connected_fleet
from provision.commands.flags import RUN, SCRIPT, TRAIN
from provision.commands.train.train import apply_train, require_retries
from provision.errors import ConfigError
from provision.fleet import Fleet, error_report
from provision.launch.checkpoints import gather_checkpoints
from provision.launch.own_config import read_into
from provision.launch.resume import Resume, own_config, plan_resume
from provision.launch.runs import KnownRun
from provision.settings import CHECKOUT, Settings
from provision.show import Answer


def apply_resumed(out: Answer, s: Settings) -> None:
    """``train --resume RUN``: as ``invoke resume RUN``, which takes nothing that says what runs."""
    flags = (*RUN, *TRAIN, *SCRIPT, "code", "launcher", "print_commands")
    kept = {"master_addr", "master_port"}
    if other := [flag for flag in flags if flag in s.given and flag not in kept]:
        raise ConfigError(
            "--resume",
            found=f"--{other[0].replace('_', '-')} with it",
            expected="none: a run that goes on is what it was",
            remedy="leave it out, or train anew with --set resume_from_checkpoint=FOLDER",
        )
    apply_resume(out, replace(s, run=s.resume))


def apply_resume(out: Answer, s: Settings) -> None:
    """An ended run again, as it was, from its newest checkpoint that is whole on all hosts."""
    from provision.commands.runs.find import gather_wanted
    from provision.launch.resume import read_program_again

    require_retries(s)
    with connected_fleet(s) as fleet:
        resume = gather_resume(out, s, fleet, gather_wanted(out, s, fleet), None)
    apply_train(out, resume.settings, read_program_again(resume, CHECKOUT))


def gather_resume(
    out: Answer, s: Settings, fleet: Fleet, run: KnownRun, own: Path | None
) -> Resume:
    """The run as one that goes on. ``own``: its user's own DeepSpeed configuration, if it had one;
    None brings it from its first host.
    """
    config = own_config(run)
    if config and own is None:
        own = s.runs / run.run / "deepspeed.json"
        found = fleet.fan_out(lambda remote: remote.get(config, own), (str(run.node0),))
        out.require(error_report(found))
    resume = plan_resume(run, gather_checkpoints(fleet, run), s, own if config else None)
    out.add(resumed_from=run.run, resumed_step=resume.step)
    for line in resume.lines():
        out.say(line)
    return replace(resume, settings=read_into(resume.settings))

"""The commands about the hosts' environments: lock-env, envs, rollback, clean, undeploy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from provision.commands.connect import connected_fleet
from provision.commands.flags import FLEET, NODES, ON_NODES, WHEEL, command
from provision.commands.help_texts import FOR_WAITING
from provision.commands.slurm.flag import connected_homes
from provision.settings import Settings
from provision.show import Answer

if TYPE_CHECKING:
    from provision.deploy.envs import HostEnvs
    from provision.fleet import Fleet


def gather_there(out: Answer, fleet: Fleet) -> Mapping[str, HostEnvs]:
    """What is on every host; the command ends here if one can't be asked."""
    from provision.deploy.envs import HostEnvs, gather_envs
    from provision.fleet import error_report

    found = gather_envs(fleet, out.say)
    out.require(error_report(found))
    return {host: here for host, here in found.items() if isinstance(here, HostEnvs)}


@command(*FLEET, *WHEEL, "packages", "requirements", "upgrade", "glibc", "dry_run")
def lock_env(out: Answer, s: Settings) -> None:
    """Resolve the packages of the hosts' environment, and yours, to a lock that deploy uses.

    Example: invoke lock-env --packages 'einops>=0.8'
    """
    from provision.commands.deploy.lock_env import apply_lock_env

    apply_lock_env(out, s)


@command(*FLEET, *NODES, "check", helps=ON_NODES)
def envs(out: Answer, s: Settings) -> None:
    """List the environments on each host, what uses them, and (--check) whether they are intact.

    Example: invoke envs --check
    """
    from provision.deploy.envs import COLUMNS, HostEnvs, gather_envs, lines, rows
    from provision.deploy.whole import gather_checked, judge_checked
    from provision.fleet import error_report

    with connected_homes(out, s) as fleet:
        answers = gather_envs(fleet, out.say)
        checked = gather_checked(fleet, out.say) if s.check else {}
    found = {host: here for host, here in answers.items() if isinstance(here, HostEnvs)}
    out.add(hosts={host: here.raw for host, here in found.items()})
    out.table(COLUMNS, rows(found))
    out.text("\n".join(lines(found)))
    out.report(error_report(answers))
    if s.check:
        whole = {host: each for host, each in checked.items() if isinstance(each, tuple)}
        out.add(checked={host: [one.as_json() for one in each] for host, each in whole.items()})
        out.report(error_report({h: e for h, e in checked.items() if h in found}))
        out.report(judge_checked(whole), full=True)


@command(*FLEET, *NODES, "to", "wait", "dry_run", helps=ON_NODES | FOR_WAITING)
def rollback(out: Answer, s: Settings) -> None:
    """Switch every host, or none, back to its previous environment, or to the one --to names.

    Example: invoke rollback
    """
    from provision.commands.deploy.deploy import locked
    from provision.deploy.apply import Deploying, apply_deploy
    from provision.deploy.rollback import judge_rollback, plan_rollback, targets

    with connected_homes(out, s) as fleet, locked(out, s, fleet, "rollback") as hold:
        found = gather_there(out, fleet)
        chosen = targets(found, s.to)
        out.require(judge_rollback(found, chosen, s.to))
        plan = plan_rollback(found, chosen)
        out.plan(plan)
        before = {host: here.current for host, here in found.items()}
        how = Deploying(before=before, confirm=hold.apply_confirm, fenced=hold.fenced)
        apply_deploy(fleet, plan, how, out.say)
    out.add(hosts={h: {"env": name, "was": before[h]} for h, name in chosen.items()})
    for host, name in chosen.items():
        out.text(f"{host}: {name}, before: {before[host] or 'none'}")


@command(*FLEET, "keep_last", "pushed", "wait", "dry_run")
def clean(out: Answer, s: Settings) -> None:
    """Remove unused environments from the hosts, and the files that only they needed.

    Example: invoke clean --keep-last 2
    """
    from provision.commands.deploy.deploy import locked
    from provision.deploy.clean import plan_clean

    with connected_fleet(s) as fleet, locked(out, s, fleet, "clean") as hold:
        plan = plan_clean(gather_there(out, fleet), s.keep_last, pushed=s.pushed)
        out.plan(plan)
        fleet.apply(hold.fenced_plan(plan), out.say)
    _done(out, plan.as_json())


@command(*FLEET, "with_runs", "wait", "dry_run")
def undeploy(out: Answer, s: Settings) -> None:
    """Remove everything of ZeroFleet's from the hosts; refused while any of it is in use.

    Example: invoke undeploy --dry-run
    """
    from provision.commands.deploy.deploy import locked
    from provision.deploy.clean import judge_undeploy, plan_undeploy

    with connected_fleet(s) as fleet:
        found = gather_there(out, fleet)
        out.require(judge_undeploy(found, with_runs=s.with_runs))
        plan = plan_undeploy(found, with_runs=s.with_runs)
        out.plan(plan)
        if not plan.empty:
            with locked(out, s, fleet, "undeploy", plan.phases[0].hosts) as hold:
                fleet.apply(hold.fenced_plan(plan), out.say)
    _done(out, plan.as_json())


def _done(out: Answer, plan: dict[str, object]) -> None:
    """What was done, host by host."""
    phases = plan["phases"]
    assert isinstance(phases, list)
    done = [step for phase in phases for step in phase["steps"]]
    out.add(done=done)
    for step in done:
        out.text(f"{step['host']}: {step['action']}")


#: What tasks.py adds to its own.
TASKS = (lock_env, envs, rollback, clean, undeploy)

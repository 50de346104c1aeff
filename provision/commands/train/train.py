"""The steps of train: have the hosts stand by, run it, and go on after a failure."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from provision.commands.connect import connected_fleet
from provision.commands.deploy.packages import read_spec
from provision.deploy.spec import EnvSpec
from provision.errors import ConfigError
from provision.fleet import Fleet, error_report
from provision.launch.prepare import Program, env_python
from provision.launch.spec import LAUNCHERS
from provision.launch.standby import Standby, apply_standby
from provision.settings import Settings
from provision.show import Answer

if TYPE_CHECKING:
    from provision.launch.results import RunResult


def apply_train(out: Answer, s: Settings, program: Program) -> None:
    """A run from preflight to its results; with --retries, again after a failure."""
    require_retries(s)
    env = read_spec(s)
    with connected_fleet(s) as fleet:
        result = _apply_one(out, s, fleet, env, program)
        if result and s.retries:
            from provision.commands.train.retry import apply_retries

            def run_again(s: Settings, program: Program) -> RunResult | None:
                return _apply_one(out, s, fleet, env, program)

            apply_retries(out, s, fleet, program, result, run_again)


def require_retries(s: Settings) -> None:
    """ConfigError for --retries that can't be honoured."""
    if s.retries < 0 or (s.retries and s.detach):
        raise ConfigError(
            "--retries",
            found=f"{s.retries}{' with --detach' if s.detach else ''}",
            expected="0 or more, and a controller that stays to see the failure",
            remedy="leave out one of them",
        )
    if s.retry_within < 1:
        raise ConfigError(
            "--retry-within",
            found=s.retry_within,
            expected="1 or more seconds",
            remedy="give the seconds that a host of yours takes to boot",
        )


def _standing_by(
    out: Answer, s: Settings, fleet: Fleet, env: EnvSpec
) -> AbstractContextManager[Standby]:
    """The hosts, standing by to start; torchrun, where it is the launcher, is imported ahead."""
    if out.dry_run or s.print_commands:
        return nullcontext(Standby())
    return apply_standby(fleet, env_python(env.name) if s.launcher == LAUNCHERS[0] else "")


def _apply_one(
    out: Answer, s: Settings, fleet: Fleet, env: EnvSpec, program: Program
) -> RunResult | None:
    """One run; None if it was detached from."""
    with _standing_by(out, s, fleet, env) as standby:
        # Here rather than above: 0.14 s of imports, during which the hosts import torch.
        from provision.commands.train.run import apply_run

        out.require(error_report(standby.errors))
        return apply_run(out, s, fleet, env, program, standby)

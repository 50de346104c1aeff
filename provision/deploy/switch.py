"""Which environment is in use on each host: one step there, and the step back. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from provision.script import script_argv
from provision.steps import Phase, Run, Step

#: The phase after which hosts use another environment: on all hosts, or on none.
SWITCH = "switch"
#: What a line of a host's history is about. Steps back are not gone back to.
DEPLOY, ROLLBACK, BACK = "deploy", "rollback", "back"


def use_step(host: str, name: str, what: str, why: str, store: Sequence[str] | None = None) -> Step:
    """Put a complete environment to use on a host.

    ``store``: sha256s of what it was made from, which `invoke clean` then leaves in the store.
    """
    told = {"name": name, "what": what, "store": store}
    argv = script_argv("switch", ["use", json.dumps(told)])
    return Step(host=host, do=Run(argv=argv, title=f"~/.zerofleet/current -> envs/{name}"), why=why)


def plan_back(before: Mapping[str, str | None]) -> Phase:
    """Every host as it was before a switch that did not come about everywhere."""
    why = "another host could not switch, and all use the same environment or none does"
    steps = []
    for host, name in before.items():
        if name is not None:
            steps.append(use_step(host, name, BACK, why))
            continue
        argv = script_argv("switch", ["leave", json.dumps({"what": BACK})])
        do = Run(argv=argv, title="no ~/.zerofleet/current, as before")
        steps.append(Step(host=host, do=do, why=why))
    return Phase(name="switch back", steps=tuple(steps))

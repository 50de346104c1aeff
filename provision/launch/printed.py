"""LaunchPlan → each node's commands as text, to be pasted there: no ZeroFleet is needed on it."""

from __future__ import annotations

import shlex

from provision.launch.nodes import deepspeed_argv, program_argv, rendezvous, shared_environ
from provision.launch.plan import LaunchPlan
from provision.launch.spec import RunSpec


def node_commands(spec: RunSpec, node_rank: int) -> str:
    """What to paste on one node, in a folder that holds the code, with its Python active. Pure.

    Secrets are taken from the shell that it is pasted into, which says so if it lacks one.
    """
    host = spec.hosts[node_rank]
    output = spec.output or f"outputs/{spec.run}"
    program = program_argv(spec, host, output.replace("~", host.home, 1), "")
    if spec.launcher == "deepspeed":
        started = program if spec.script else ("--module", *program[1:])
        launcher = ("python", "-m", *deepspeed_argv(spec, node_rank))
    else:
        started, launcher = program, ("torchrun", *rendezvous(spec, host, node_rank))
    environ = [f"{name}={value}" for name, value in shared_environ(spec, host).items()]
    what = "your code" if spec.script else "this checkout"
    lines = [
        f"# {host.name}: node_rank {node_rank} of {len(spec.hosts)}, {host.nproc_per_node} ranks.",
        f"# In a copy of {what}, with a Python environment active that has torch and DeepSpeed:",
        *(f': "${{{name}:?export it in this shell first}}"' for name in spec.environ.secret),
        f"env {shlex.join(environ)} \\",
        f"    {shlex.join(launcher)} \\",
        f"    {shlex.join(started)}",
    ]
    return "\n".join(lines) + "\n"


def all_commands(launch: LaunchPlan) -> dict[str, str]:
    """Each host's commands, in node_rank order."""
    return {node.host: node_commands(launch.spec, node.node_rank) for node in launch.nodes}

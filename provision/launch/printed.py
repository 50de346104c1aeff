"""LaunchPlan → each node's commands as text, to be pasted there: no ZeroFleet is needed on it."""

from __future__ import annotations

import posixpath
import shlex

from provision.launch.code import OWN
from provision.launch.nodes import (
    bound,
    deepspeed_argv,
    node_environ,
    program_argv,
    rendezvous,
)
from provision.launch.plan import LaunchPlan
from provision.launch.spec import RunSpec

#: Ends the text of a file in the commands; no line of JSON.
_END = "END-OF-CONFIGURATION"


def node_commands(spec: RunSpec, node_rank: int, own_config: str = "") -> str:
    """What to paste on one node, in a folder that holds the code, with its Python active. Pure.

    Secrets are taken from the shell that it is pasted into, which says so if it lacks one.
    ``own_config``: the text of the user's own DeepSpeed configuration, which no checkout has.
    """
    host = spec.hosts[node_rank]
    output = (spec.output or f"outputs/{spec.run}").replace("~", host.home, 1)
    program = program_argv(spec, host, output, "")
    if spec.launcher == "deepspeed":
        started = program if spec.script else ("--module", *program[1:])
        launcher = ("python", "-m", *deepspeed_argv(spec, node_rank))
    else:
        started = program
        launcher = ("torchrun", *rendezvous(spec, host, node_rank), *bound(host))
    environ = [f"{name}={value}" for name, value in node_environ(spec, host, node_rank).items()]
    room = []
    if spec.script:  # the folder above exists in a run over SSH, too
        environ.append(f"ZEROFLEET_OUTPUT_DIR={output}")
        room = [shlex.join(["mkdir", "-p", posixpath.dirname(output)])]
    what = "your code" if spec.script else "this checkout"
    lines = [
        f"# {host.name}: node_rank {node_rank} of {len(spec.hosts)}, {host.nproc_per_node} ranks.",
        f"# In a copy of {what}, with a Python environment active that has torch and DeepSpeed:",
        *(
            f': "${{{name}:?export it in this shell first}}"; export {name}'
            for name in spec.environ.secret
        ),
        *_own_config(own_config),
        *room,
        f"env {shlex.join(environ)} \\",
        f"    {shlex.join(launcher)} \\",
        f"    {shlex.join(started)}",
    ]
    return "\n".join(lines) + "\n"


def _own_config(text: str) -> list[str]:
    """The command that puts the user's DeepSpeed configuration where the trainer is told it is."""
    written = [f"cat > zero_configs/{OWN} << '{_END}'", *text.splitlines(), _END]
    return written if text else []


def all_commands(launch: LaunchPlan) -> dict[str, str]:
    """Each host's commands, in node_rank order."""
    return {
        node.host: node_commands(launch.spec, node.node_rank, launch.own_config)
        for node in launch.nodes
    }

"""``invoke node``: the person stands on each node, and starts its part of a run there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from provision.commands.flags import LIMITS, Command, command
from provision.commands.help_texts import FOR_NODE
from provision.launch.manual import POSITIONS, words_after
from provision.settings import Settings
from provision.show import Answer


class NodeCommand(Command):
    """An Invoke task whose positional arguments may be left out.

    Invoke has required ones only. So those count as positional that are on this command line.
    """

    def usage(self) -> str:
        """All of its positions: each may be left out."""
        return " ".join(f"[{name.upper()}]" for name in POSITIONS)

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        """The flags, as many of them positional as words stand behind the command's name."""
        self.positional = list(POSITIONS)[: words_after(sys.argv, "node")]
        return super().get_arguments(ignore_unknown_help)


@command(
    *POSITIONS, "objective", "offload", "deepspeed", "recipe", "set", "model", "data", "output",
    "script", "code", "env", "launcher", "numa_binding", *LIMITS, "python", "accelerator",
    "dry_run",
    helps=FOR_NODE, klass=NodeCommand,
)  # fmt: skip
def node(out: Answer, s: Settings) -> None:
    """Start this node's part of a run by hand, on the node itself.

    Example: NODE_RANK=1 invoke node 3 2 4 192.168.1.100 29500
    """
    from provision.commands.node.node import read_node_plan
    from provision.commands.train.report import apply_reported
    from provision.launch.here import apply_node

    launch = read_node_plan(out, s)
    out.plan(launch)
    result = apply_node(launch, Path.home(), out.say)
    out.outcome(result)
    apply_reported(out, result, {"host": launch.nodes[0].host})


#: What tasks.py adds to its own.
TASKS = (node,)

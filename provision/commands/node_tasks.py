"""``invoke node``: the person stands on each node, and starts its part of a run there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from provision.commands.flags import Command, command
from provision.launch.manual import POSITIONS, words_after
from provision.settings import Settings
from provision.show import Answer


class NodeCommand(Command):
    """An Invoke task whose positional arguments may be left out.

    Invoke has required ones only. So those count as positional that are on this command line.
    """

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        """The flags, as many of them positional as words stand behind the command's name."""
        self.positional = list(POSITIONS)[: words_after(sys.argv, "node")]
        return super().get_arguments(ignore_unknown_help)


@command(
    *POSITIONS, "objective", "offload", "recipe", "set", "model", "data", "output", "script",
    "code", "env", "launcher", "python", "accelerator", "dry_run", klass=NodeCommand,
)  # fmt: skip
def node(out: Answer, s: Settings) -> None:
    """Start this node's part of a run, standing on it: [zero] [nnodes] [gpus] [addr] [port]."""
    from provision.commands.standing import read_node_plan
    from provision.launch.here import apply_node

    launch = read_node_plan(out, s)
    out.plan(launch)
    out.outcome(apply_node(launch, Path.home(), out.say))


#: What tasks.py adds to its own.
TASKS = (node,)

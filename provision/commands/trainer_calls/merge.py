"""The step of merge: which adapter, and where the merged model goes."""

from __future__ import annotations

from provision.commands.trainer_calls.call import gather_result_folder, target
from provision.fleet import Fleet
from provision.launch.module import (
    WORK,
    ModuleCall,
)
from provision.settings import Settings
from provision.show import Answer


def gather_merge_call(out: Answer, s: Settings, fleet: Fleet | None) -> ModuleCall:
    """``invoke merge``."""
    who, folder, run = gather_result_folder(out, s, fleet)
    output = target(s, s.runs / run / "merged" if run else None)
    return who.call("trainer.merge", folder, f"{WORK}/result", "--json", output=output)

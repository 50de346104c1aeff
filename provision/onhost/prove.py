"""Prove an environment on its host, in its own Python: then, and only then, it is complete.

    prove.py JSON    {"name", "torch", "accelerator", "ops", "wheel", "wheel_sha256"}

torch must be the one that the wheel was built for, and every op of the wheel must load with JIT
compilation turned off: ``ds_report`` says OKAY for ops that it never loads, and DeepSpeed falls
back to compiling on first use without a word.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def fail(text: str) -> None:
    """End with the line that the controller shows."""
    print(text, file=sys.stderr)
    raise SystemExit(1)


def refuse_jit(*_: object, **__: object) -> None:
    """What takes the place of OpBuilder.jit_load."""
    raise RuntimeError("not in the wheel: it would be compiled on first use")


def prove(wanted: dict[str, Any]) -> dict[str, Any]:
    """The record of a proved environment; SystemExit with one line on the first misfit."""
    os.environ["DS_ACCELERATOR"] = wanted["accelerator"]
    import torch  # noqa: TID251 - this runs in the host's environment

    if torch.__version__ != wanted["torch"]:
        fail("torch is %s, the wheel was built for %s" % (torch.__version__, wanted["torch"]))
    import deepspeed
    from deepspeed.ops.op_builder.all_ops import ALL_OPS
    from deepspeed.ops.op_builder.builder import OpBuilder

    OpBuilder.jit_load = refuse_jit
    for op in wanted["ops"]:
        # DeepSpeed prefixes the name of one op only: its builder calls itself deepspeed_shm_comm.
        builder = ALL_OPS.get(op) or ALL_OPS.get("deepspeed_" + op)
        if builder is None:
            fail("op %s: DeepSpeed %s has no such op here" % (op, deepspeed.__version__))
        try:
            builder.load()
        except Exception as error:  # noqa: BLE001 - ImportError, undefined symbol, refuse_jit
            fail("op %s does not load: %s" % (op, error))
    return {
        "lock": wanted["name"],
        "python": "%d.%d.%d" % sys.version_info[:3],
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "deepspeed": deepspeed.__version__,
        "accelerator": wanted["accelerator"],
        "ops": wanted["ops"],
        "wheel": wanted["wheel"],
        "wheel_sha256": wanted["wheel_sha256"],
        "at": time.time(),
    }


if __name__ == "__main__":
    record = prove(json.loads(sys.argv[1]))
    path = os.path.join(sys.prefix, "complete.json")
    with open(path + ".partial", "w") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)
    os.replace(path + ".partial", path)

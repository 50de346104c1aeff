"""Prove an environment on its host, in its own Python: then, and only then, it is complete.

    prove.py JSON    {"name", "torch", "accelerator", "ops", "wheel", "wheel_sha256",
                      "versions": {distribution: version}, "imports": [module]}

torch must be the one that the wheel was built for, and every op of the wheel must load with JIT
compilation turned off: ``ds_report`` says OKAY for ops that it never loads, and DeepSpeed falls
back to compiling on first use without a word. A CPU Adam is held to torch's own.

With "versions" the environment must hold exactly these; each of "imports" must import. Preflight
asks for neither. "base" and "sites": the user's own Python that it lies over; noted down. "record"
false: write nothing; so preflight asks, and a deploy of a host whose home another host shares and
notes it down. Answers {"loads": true}, or ends with the line that says why not.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from importlib import metadata
from typing import Any, Iterable

from provision.onhost.converse import fail, reply
from provision.onhost.files import sync_all, sync_folder

#: Steps of the optimizers, and how far apart their parameters may then be: float32 rounds, and the
#: two add in another order. They were 4.8e-7 apart where this was written.
STEPS, CLOSE = 3, 1e-5
TOOLS = ("pip", "setuptools", "wheel")


def refuse_jit(*_: object, **__: object) -> None:
    """What takes the place of OpBuilder.jit_load."""
    raise RuntimeError("not in the wheel: it would be compiled on first use")


def compare_versions(wanted: dict[str, str]) -> None:
    """SystemExit with one line unless this environment holds exactly these distributions."""
    found = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version
        for each in metadata.distributions(path=[p for p in sys.path if p.startswith(sys.prefix)])
    }
    # The tools that python -m venv brings along; the lock may not have them.
    there = {name: v for name, v in found.items() if name in wanted or name not in TOOLS}
    odd = ["no %s" % name for name in sorted(wanted) if name not in there]
    odd += [
        "%s %s (%s)" % (name, version, wanted.get(name, "not in the lock"))
        for name, version in sorted(there.items())
        if wanted.get(name) != version
    ]
    if odd:
        fail("not what the lock says: " + ", ".join(odd[:8]))


def adam_difference() -> float:
    """Largest difference between DeepSpeedCPUAdam's and torch.optim.AdamW's parameters."""
    import torch  # noqa: TID251
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    start = torch.linspace(-2.0, 2.0, 10007)  # odd: vector code has a remainder to deal with
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = (
        DeepSpeedCPUAdam([ours], adamw_mode=True, **options),
        torch.optim.AdamW([theirs], **options),
    )
    for step in range(STEPS):
        for parameter, optimizer in zip((ours, theirs), optimizers):
            parameter.grad = torch.cos(start * (step + 1))
            optimizer.step()
    if torch.equal(ours, start):
        fail("cpu_adam: a step changed nothing")
    difference = float((ours - theirs).detach().abs().max())
    if not difference <= CLOSE:  # NaN is not
        fail("cpu_adam: %g off torch's AdamW after %d steps" % (difference, STEPS))
    return difference


def import_each(names: Iterable[str]) -> None:
    """SystemExit with one line on the first of these modules that does not import."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a package raises as it is imported
            fail("import %s: %s: %s" % (name, type(error).__name__, error))


def prove(wanted: dict[str, Any]) -> dict[str, Any]:
    """The record of a proved environment; SystemExit with one line on the first misfit."""
    if "versions" in wanted:
        # Whatever PYTHONDONTWRITEBYTECODE says: no rank of a run is to compile what is used here.
        sys.dont_write_bytecode = False
        compare_versions(wanted["versions"])
    if "base" in wanted:
        sys.dont_write_bytecode = True  # what is the user's own stays as it is
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
    difference = adam_difference() if "cpu_adam" in wanted["ops"] else None
    import_each(wanted.get("imports", ()))
    return {
        "lock": wanted["name"],
        "python": "%d.%d.%d" % sys.version_info[:3],
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "deepspeed": deepspeed.__version__,
        "accelerator": wanted["accelerator"],
        "ops": wanted["ops"],
        "cpu_adam_difference": difference,
        "versions": wanted.get("versions"),
        **{key: wanted[key] for key in ("base", "sites") if key in wanted},
        "wheel": wanted["wheel"],
        "wheel_sha256": wanted["wheel_sha256"],
        "at": time.time(),
    }


def write_record(record: dict[str, Any]) -> None:
    """Note down in the environment that it is proved, and with that make it complete."""
    path = os.path.join(sys.prefix, "complete.json")
    with open(path + ".partial", "w") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)
    sync_all(sys.prefix)  # what was installed is on the disk before it counts
    os.replace(path + ".partial", path)
    sync_folder(sys.prefix)  # and so is its name, before ``current`` may be this environment


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    proved = prove(asked)
    if asked.get("record", True):
        write_record(proved)
    reply({"loads": True})

"""Load every op of a freshly unpacked DeepSpeed wheel; run by audit.py, never imported by it.

Runs under the audit's own interpreter, which sees torch; the controller does not, hence the
imports by name. Usage: ``python -I proof.py '{"cpu_adam": "CPUAdamBuilder"}'``. Each answer is a
line ``zerofleet-proof {…}``, written before the next attempt so that a crash still names its op.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

STEPS = 3


def answer(**values: object) -> None:
    """Write one answer, at once."""
    sys.stdout.write("zerofleet-proof " + json.dumps(values) + "\n")
    sys.stdout.flush()


def forbid_compiling() -> None:
    """Make DeepSpeed's fallback, which would compile a missing op here, an error."""

    def jit_load(self: Any, verbose: bool = True) -> None:  # noqa: ARG001  # DeepSpeed's signature
        raise RuntimeError(f"{self.name} is not usable as built: DeepSpeed would compile it here")

    importlib.import_module("deepspeed.ops.op_builder.builder").OpBuilder.jit_load = jit_load


def load(op: str, builder_name: str) -> None:
    """Load one op as DeepSpeed itself does."""
    accelerator = importlib.import_module("deepspeed.accelerator").get_accelerator()
    answer(**{op: "loading"})
    try:
        builder = accelerator.create_op_builder(builder_name)
        module = builder.load(verbose=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is this op's answer
        missing = f"no driver: {error}" if "libcuda.so.1: cannot open" in str(error) else ""
        answer(**{op: missing or f"{type(error).__name__}: {error}"})
        return
    if not getattr(module, "__file__", "").startswith(sys.prefix):
        answer(**{op: f"loaded from {getattr(module, '__file__', None)}, not from the wheel"})
        return
    answer(**{op: "ok"})


def adam_difference() -> float:
    """Largest difference between DeepSpeedCPUAdam's and torch.optim.AdamW's parameters."""
    torch: Any = importlib.import_module("torch")
    ops: Any = importlib.import_module("deepspeed.ops.adam")
    torch.manual_seed(0)
    start = torch.randn(10_007)  # odd: vector code has a remainder to deal with
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = (
        ops.DeepSpeedCPUAdam([ours], adamw_mode=True, **options),
        torch.optim.AdamW([theirs], **options),
    )
    for _ in range(STEPS):
        gradient = torch.randn_like(start)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    if torch.equal(ours, start):
        raise RuntimeError("DeepSpeedCPUAdam changed nothing")
    return float((ours - theirs).detach().abs().max())


def main() -> None:
    """Answer for each op named on the command line, and for its Adam."""
    builders: dict[str, str] = json.loads(sys.argv[1])
    forbid_compiling()
    for op, builder_name in builders.items():
        load(op, builder_name)
    if "cpu_adam" in builders:
        answer(adam=adam_difference())


if __name__ == "__main__":
    main()

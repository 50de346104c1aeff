"""Which ZeRO was asked for, which one is active, and which optimizer steps.

Read from the objects that do the work rather than from DeepSpeed's configuration, because the
question is whether the two agree.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from trainer.errors import RequestError

#: Where DeepSpeed keeps what is not offloaded.
ON_DEVICE = "none"


@dataclass(frozen=True, kw_only=True)
class Zero:
    """A ZeRO stage (0: none) and where optimizer states and parameters live: none, cpu or nvme."""

    stage: int
    optimizer: str = ON_DEVICE
    parameters: str = ON_DEVICE

    @property
    def offload(self) -> str | None:
        """What is offloaded: ``optimizer``, ``parameters``, ``optimizer+parameters`` or None."""
        parts = ("optimizer", self.optimizer), ("parameters", self.parameters)
        return "+".join(name for name, where in parts if where != ON_DEVICE) or None

    def __str__(self) -> str:
        if not self.stage:
            return "no ZeRO"
        states, parameters = _place(self.optimizer), _place(self.parameters)
        return f"ZeRO-{self.stage} (optimizer states: {states}, parameters: {parameters})"


def _place(device: str) -> str:
    return "on the device" if device == ON_DEVICE else f"offloaded to {device}"


def requested_zero(config: dict[str, Any] | None) -> Zero:
    """What a DeepSpeed configuration asks for; without one, nothing."""
    zero = (config or {}).get("zero_optimization", {})
    return Zero(
        stage=int(zero.get("stage", 0)),
        optimizer=_device(zero.get("offload_optimizer")),
        parameters=_device(zero.get("offload_param")),
    )


def _device(offload: dict[str, Any] | None) -> str:
    return str((offload or {}).get("device") or ON_DEVICE)


def active_zero(model: Any) -> Zero:
    """What the model that trains (``trainer.model_wrapped``) really does.

    Raises RequestError for a DeepSpeed optimizer of a kind not known here: unknown is never ok.
    """
    if "deepspeed" not in sys.modules:
        return Zero(stage=0)
    from deepspeed import DeepSpeedEngine

    if not isinstance(model, DeepSpeedEngine):
        return Zero(stage=0)
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    optimizer = model.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        parameters = "nvme" if optimizer.params_in_nvme_and_cpu else "cpu"
        states = "nvme" if optimizer.swap_optimizer else "cpu"
        return Zero(
            stage=3,
            optimizer=states if optimizer.offload_optimizer else ON_DEVICE,
            parameters=parameters if optimizer.offload_param else ON_DEVICE,
        )
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        return Zero(
            stage=2 if optimizer.partition_gradients else 1,
            optimizer="cpu" if optimizer.cpu_offload else ON_DEVICE,
        )
    if model.zero_optimization_stage() == 0:
        return Zero(stage=0)
    raise RequestError(
        f"the optimizer is a {type(optimizer).__name__}: which ZeRO stage that is can't be told"
    )


def require_zero(asked: Zero, active: Zero) -> None:
    """Raise RequestError unless what was asked for is what is active."""
    if asked != active:
        raise RequestError(
            f"asked for {asked}, but active is {active}: the file given with --deepspeed is not "
            "what the engine runs"
        )


def stepping_optimizer(trainer: Any) -> Any:
    """The optimizer that updates the weights, out of accelerate's and ZeRO's wrappers."""
    engine_optimizer = getattr(trainer.model_wrapped, "optimizer", None)
    optimizer = engine_optimizer if engine_optimizer is not None else trainer.optimizer
    while getattr(optimizer, "optimizer", None) is not None:
        optimizer = optimizer.optimizer
    return optimizer


def native_library(optimizer: Any) -> str | None:
    """The .so behind DeepSpeedCPUAdam: prebuilt in the wheel, or compiled on this host."""
    return getattr(getattr(optimizer, "ds_opt_adam", None), "__file__", None)

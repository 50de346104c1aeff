"""trainer/engine.py: asked and active ZeRO are compared, and a difference stops the run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainer.engine import Zero, active_zero, requested_zero, require_zero, stepping_optimizer
from trainer.errors import RequestError


def test_no_configuration_asks_for_no_zero() -> None:
    assert requested_zero(None) == requested_zero({}) == Zero(stage=0)
    off = {"stage": 3, "offload_param": {"device": "none"}, "offload_optimizer": None}
    assert requested_zero({"zero_optimization": off}) == Zero(stage=3)


def test_a_model_without_deepspeed_has_no_zero() -> None:
    assert active_zero(torch.nn.Linear(1, 1)) == Zero(stage=0)


@pytest.mark.parametrize(
    "active",
    [
        Zero(stage=0),
        Zero(stage=1, optimizer="cpu"),
        Zero(stage=2),
        Zero(stage=2, optimizer="nvme"),
        Zero(stage=2, optimizer="cpu", parameters="cpu"),
    ],
)
def test_any_difference_is_an_error(active: Zero) -> None:
    asked = Zero(stage=2, optimizer="cpu")
    require_zero(asked, asked)
    with pytest.raises(RequestError, match=r"asked for ZeRO-2 .*offloaded to cpu.* active is"):
        require_zero(asked, active)


@pytest.mark.parametrize(
    ("zero", "offload"),
    [
        (Zero(stage=2), None),
        (Zero(stage=2, optimizer="cpu"), "optimizer"),
        (Zero(stage=3, parameters="nvme"), "parameters"),
        (Zero(stage=3, optimizer="cpu", parameters="cpu"), "optimizer+parameters"),
    ],
)
def test_offload_in_words(zero: Zero, offload: str | None) -> None:
    assert zero.offload == offload


def test_the_stepping_optimizer_is_found_inside_wrappers() -> None:
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    wrapped = SimpleNamespace(optimizer=SimpleNamespace(optimizer=adam))
    assert stepping_optimizer(SimpleNamespace(model_wrapped=wrapped, optimizer=None)) is adam
    plain = SimpleNamespace(model_wrapped=torch.nn.Linear(1, 1), optimizer=wrapped.optimizer)
    assert stepping_optimizer(plain) is adam

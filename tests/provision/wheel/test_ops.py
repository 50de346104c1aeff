from __future__ import annotations

import pytest

from provision.errors import ConfigError
from provision.wheel.ops import DEFAULT_OPS, OPS, buildable, find_ops, ops_of


def test_defaults_exist_and_include_what_every_run_loads() -> None:
    found = find_ops(DEFAULT_OPS["cpu"], "cpu")
    assert [(op.name, op.flag) for op in found] == [
        ("cpu_adam", "DS_BUILD_CPU_ADAM"),
        ("shm_comm", "DS_BUILD_SHM_COMM"),
    ]


def test_defaults_on_gpus_are_the_optimizers_and_the_casts() -> None:
    found = find_ops(DEFAULT_OPS["cuda"], "cuda")
    assert [op.name for op in found] == ["cpu_adam", "fused_adam", "utils"]


def test_an_op_that_can_not_be_built_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"evoformer_attn, which can't be built here: .*CUTLASS"):
        find_ops(["evoformer_attn"], "cuda")
    left_out = set(ops_of("cuda")) - set(buildable("cuda"))
    assert {name for name in left_out if OPS[name].blocked} == {
        "cutlass_ops", "evoformer_attn", "ragged_device_ops",
    }  # fmt: skip
    assert find_ops(["quantizer"], "cuda")  # named, it is tried


def test_module_is_named_as_in_the_wheel() -> None:
    assert OPS["shm_comm"].module_path == "deepspeed/ops/comm/deepspeed_shm_comm_op"
    assert OPS["utils"].module == "deepspeed.ops.utils_op"
    assert OPS["ragged_ops"].module == "deepspeed.inference.v2.ragged_ops"


def test_flags_and_installed_names_are_unique() -> None:
    assert len({op.flag for op in OPS.values()}) == len(OPS)
    assert len({op.installed_name for op in OPS.values()}) == len(OPS)


def test_needed_ops_come_along_sorted() -> None:
    assert [op.name for op in find_ops(["cpu_adam", "async_io"], "cpu")] == [
        "async_io",
        "cpu_adam",
        "pin_memory",
    ]


def test_unknown_op_offers_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean cpu_adam") as caught:
        find_ops(["cpu_adma"], "cpu")
    assert "shm_comm" in caught.value.expected


def test_op_of_another_accelerator_is_refused_not_ignored() -> None:
    with pytest.raises(ConfigError, match="utils, which DeepSpeed has for cuda only"):
        find_ops(["utils"], "cpu")
    assert "utils" not in ops_of("cpu")

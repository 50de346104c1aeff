from __future__ import annotations

import inspect
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from provision.errors import ConfigError
from provision.launch.spec import (
    RunHost,
    RunSpec,
    new_run_id,
    parse_run,
    with_training,
    zero_config_name,
)

CONFIGS = ("zero1.json", "zero1_offload.json", "zero2.json", "zero2_offload.json", "zero3.json",
           "zero3_offload.json")  # fmt: skip
NODE1 = RunHost(name="node1", slots=2, home="/home/ml", nproc_per_node=2, boot_id="a")
NODE2 = RunHost(name="node2", slots=2, home="/home/ml", nproc_per_node=2, boot_id="b")


def spec(**changes: Any) -> RunSpec:
    run = {
        "run": "r1",
        "hosts": (NODE1, NODE2),
        "master_addr": "10.0.0.1",
        "python": "~/.zerofleet/envs/abc/bin/python",
        "accelerator": "cuda",
    }
    training = {
        "zero": 2,
        "offload": "none",
        "zero_configs": CONFIGS,
        "model": "~/models/qwen",
        "data": "~/data",
        "recipe": {},
        "overrides": {},
    }
    for name, value in changes.items():
        trains = name in inspect.signature(with_training).parameters
        (training if trains else run)[name] = value
    return with_training(parse_run(**run), **training)


def test_data_may_be_what_hosts_have_of_a_hub() -> None:
    named = "~/data,hf://datasets/owner/name@main"
    assert spec(data=named).data == named
    with pytest.raises(ConfigError, match="--data: found ~/data,name"):
        spec(data="~/data,name")


def test_run_id() -> None:
    when = datetime(2026, 11, 21, 8, 30, 12)  # noqa: DTZ001 (pure formatting)
    assert new_run_id(when, "3f9c") == "20261121-083012-sft-3f9c"


@pytest.mark.parametrize(
    ("stage", "offload", "name"),
    [
        (1, "none", "zero1.json"),
        (1, "optimizer", "zero1_offload.json"),
        (2, "none", "zero2.json"),
        (2, "optimizer", "zero2_offload.json"),
        (3, "none", "zero3.json"),
        (3, "all", "zero3_offload.json"),
    ],
)
def test_zero_config(stage: int, offload: str, name: str) -> None:
    assert zero_config_name(stage, offload, CONFIGS) == name


def test_every_zero_config_of_this_checkout_can_be_chosen() -> None:
    folder = Path(__file__).parents[3] / "zero_configs"
    names = {path.name for path in folder.glob("*.json")}
    assert set(CONFIGS) <= names


@pytest.mark.parametrize(
    ("stage", "offload", "message"),
    [
        (4, "none", "--zero: found 4, expected 1, 2 or 3: "),
        (0, "none", "--zero: found 0, expected 1, 2 or 3: "),
        (2, "all", "offload with ZeRO stage 2: found all, expected none or optimizer: offloading "),
        (3, "optimizer", "offload with ZeRO stage 3: found optimizer, expected none or all: "),
        (1, "nvme", "offload with ZeRO stage 1: found nvme, expected none or optimizer: "),
    ],
)
def test_no_configuration_is_ever_replaced_by_another(
    stage: int, offload: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        zero_config_name(stage, offload, CONFIGS)
    assert str(error.value).startswith(message)


def test_zero_3_offloads_the_optimizer_alone_once_there_is_a_configuration() -> None:
    more = (*CONFIGS, "zero3_offload_optimizer.json")
    assert zero_config_name(3, "optimizer", more) == "zero3_offload_optimizer.json"


def test_overrides_come_over_the_recipe_and_dashes_are_underscores() -> None:
    made = spec(recipe={"learning-rate": "2e-5", "bf16": True}, overrides={"learning_rate": "1"})
    assert made.flags == {"learning_rate": "1", "bf16": True}


@pytest.mark.parametrize(
    ("key", "flag"),
    [
        ("model_name_or_path", "--model"),
        ("train_file_dir", "--data"),
        ("output_dir", "--output"),
        ("output-dir", "--output"),
        ("deepspeed", "--zero and --offload"),
    ],
)
@pytest.mark.parametrize("source", ["recipe", "overrides"])
def test_flags_that_the_launcher_sets_are_refused(source: str, key: str, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"use {flag}$"):
        spec(**{source: {key: "x"}})


@pytest.mark.parametrize(
    "flags", [{"a": {"b": 1}}, {"a": [{"b": 1}]}, {"a": []}, {"a b": 1}, {"--a": 1}, {"a": "b\0c"}]
)
def test_recipes_are_flat(flags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        spec(recipe=flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hosts": ()}, "hosts: found none"),
        ({"hosts": (NODE1, NODE1)}, "hosts: found node1 2 times"),
        (
            {"master_addr": "127.0.0.1"},
            "--master-addr: found 127.0.0.1, expected an address of node1",
        ),
        ({"master_addr": "localhost"}, "--master-addr: found localhost"),
        ({"master_addr": ""}, "--master-addr and --master-port: found '', 29500"),
        ({"master_port": 70000}, "--master-addr and --master-port: found '10.0.0.1', 70000"),
        ({"data": "data"}, "--data: found data, expected a path on the hosts"),
        ({"data": "~/a,b"}, "--data: found ~/a,b"),
        ({"output": "out"}, "--output: found out"),
        ({"model": "./model"}, "--model: found ./model"),
        ({"model": ""}, "--model: found nothing"),
        ({"model": "--flag"}, "--model: found --flag"),
        ({"accelerator": ""}, "--accelerator: found none"),
        ({"accelerator": "xpu"}, "--accelerator: found xpu, expected cuda or cpu"),
        ({"run": "a/b"}, "run id: found 'a/b'"),
    ],
)
def test_what_can_not_be_honoured(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        spec(**changes)
    assert str(error.value).startswith(message)


def test_more_ranks_than_slots() -> None:
    host = RunHost(name="n", slots=2, home="/h", nproc_per_node=3)
    with pytest.raises(ConfigError, match="n: nproc_per_node: found 3, expected 1 to 2, its slots"):
        spec(hosts=(host,))


def test_loopback_is_right_for_one_host_and_for_hosts_that_are_one_machine() -> None:
    assert spec(hosts=(NODE1,), master_addr="127.0.0.1").master_addr == "127.0.0.1"
    other = RunHost(name="node2", slots=1, home="/h2", nproc_per_node=1, boot_id="a")
    assert spec(hosts=(NODE1, other), master_addr="127.0.0.1").hosts[1] is other


@pytest.mark.parametrize("model", ["/m", "~/m", "Qwen/Qwen3-0.6B", "gpt2"])
def test_models(model: str) -> None:
    assert spec(model=model).model == model


def test_an_unknown_launcher() -> None:
    with pytest.raises(ConfigError, match="--launcher: found mpirun, expected torchrun or deepspe"):
        spec(launcher="mpirun")

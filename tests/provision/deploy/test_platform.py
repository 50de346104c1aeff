"""Which wheels a host takes: its tags and markers."""

from __future__ import annotations

import pytest
from packaging.utils import parse_wheel_filename

from provision.deploy.platform import Platform, oldest, platform_of


@pytest.fixture
def bullseye():
    return Platform(machine="x86_64", glibc=(2, 31), python_tag="cp311")


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", True),
        ("tokenizers-0.23.3-cp310-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("tqdm-4.70.1-py3-none-any.whl", True),
        ("deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl", True),
        ("new-1.0-cp311-cp311-manylinux_2_32_x86_64.whl", False),
        ("numpy-2.4.6-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl", False),
        ("numpy-2.4.6-cp311-cp311-musllinux_1_2_x86_64.whl", False),
    ],
)
def test_what_installs_on_debian_11(bullseye, wheel, fits):
    assert (bullseye.rank(parse_wheel_filename(wheel)[3]) is not None) == fits


def test_a_wheel_for_a_newer_glibc_is_the_better_one(bullseye):
    newer, older = (
        bullseye.rank(parse_wheel_filename(f"x-1-cp311-cp311-{tag}_x86_64.whl")[3])
        for tag in ("manylinux_2_28", "manylinux2014")
    )
    assert newer < older


def test_all_hosts_get_what_the_oldest_can_take(make_facts):
    hosts = {"a": make_facts("a", glibc="2.39"), "b": make_facts("b", glibc="2.9")}
    assert oldest(hosts, "cp311").glibc == (2, 9)


def test_no_platform_without_a_known_glibc(make_facts):
    assert platform_of(make_facts(glibc={"unknown": "timed out"}), "cp311") is None
    with pytest.raises(ValueError, match="not known"):
        oldest({"a": make_facts("a"), "b": make_facts("b", glibc={"absent": True})}, "cp311")

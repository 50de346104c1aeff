"""Said before a byte is pushed: room, file systems, Pythons, and packages of another glibc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.deploy.platform import Platform
from provision.deploy.verdict import Needs, compare_deploy
from provision.deploy.wheelhouse import Package, Wheelhouse

FACTS = Path(__file__).parents[2] / "facts" / "probe-debian12-cpu.json"
WHEEL = Path("pyarrow-26.0.1-cp311-cp311-manylinux_2_28_x86_64.whl")
HOUSE = Wheelhouse(
    platform=Platform(machine="x86_64", glibc=(2, 36), python_tag="cp311"),
    packages=(Package(path=WHEEL, sha256="aa"),),
    uv=None,
    missing=(),
)


def needs(**push):
    return Needs(push=push, unpacked=2_000_000_000, files=14_000)


def disks(**changes):
    found = json.loads(FACTS.read_text())["disks"]["value"]
    return {**found, "~/.zerofleet": {**found["~/.zerofleet"], **changes}}


def failing(facts, house=HOUSE, wanted=None):
    report = compare_deploy({facts.host: facts}, house, "cp311", wanted or needs())
    return [(f.subject, f.found, f.expected) for f in report.failing]


def test_a_host_with_room_and_a_fitting_python_fits(make_facts):
    assert failing(make_facts()) == []
    assert failing(make_facts(), house=None) == []


@pytest.mark.parametrize(
    ("disk", "found"),
    [
        ({"noexec": True}, "/ (ext4) is mounted noexec"),
        ({"read_only": True, "writable": False}, "/ (ext4) is mounted read-only"),
        ({"writable": False}, "/ (ext4) may not be written to"),
        ({"free": 3_000_000_000}, "3.0 GB free on / (ext4)"),
        ({"inodes_free": 14_999}, "14,999 inodes free on / (ext4)"),
    ],
)
def test_a_disk_that_will_not_do(make_facts, disk, found):
    assert [line for _, line, _ in failing(make_facts(disks=disks(**disk)))] == [found]


def test_what_is_still_to_be_pushed_needs_room_too(make_facts):
    facts = make_facts(disks=disks(free=3_200_000_000))
    assert failing(facts) == []
    assert failing(facts, wanted=needs(node1=200_000_000)) == [
        ("disk", "3.2 GB free on / (ext4)", "3.3 GB for the environment")
    ]


def test_a_file_system_without_inodes_has_enough_of_them(make_facts):
    assert failing(make_facts(disks=disks(inodes=0, inodes_free=0))) == []


def test_a_disk_that_is_not_known_is_not_taken_for_good(make_facts):
    assert [f[0] for f in failing(make_facts(disks={"unknown": "no answer in 5 s"}))] == ["disk"]
    assert [f[0] for f in failing(make_facts(disks={"~/.zerofleet": {"error": "EIO"}}))] == ["disk"]


def test_packages_of_a_newer_glibc_are_named(make_facts):
    ((subject, found, expected),) = failing(make_facts(glibc="2.17"))
    assert (subject, found) == ("packages", WHEEL.name)
    assert "glibc 2.17" in expected


def test_only_a_host_that_downloads_by_itself_needs_the_venv_module(make_facts):
    facts = make_facts(pythons=[{"path": "/p", "version": "3.11.2", "venv": False}])
    assert failing(facts) == []
    assert failing(facts, house=None) == [
        ("python.venv", "3.11.2 without venv", "3.11 with venv and pip")
    ]

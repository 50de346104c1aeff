"""The wheel over the packages of a user's own Python: which, and does it fit."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from provision.deploy.existing import compare_existing, pythons_of, with_existing
from provision.deploy.plan import plan_deploy
from provision.deploy.platform import Platform
from provision.deploy.resolve import Given
from provision.deploy.spec import make_existing_spec
from provision.deploy.wheelhouse import Package, Wheelhouse
from provision.errors import ConfigError
from provision.inventory import parse_inventory

METADATA = (
    b"Metadata-Version: 2.1\nName: deepspeed\nVersion: 1\nRequires-Dist: torch\nRequires-Dist: \
einops>=0.8\nRequires-Dist: hjson\nRequires-Dist: pynvml; extra == 'x'\n"
)
GIVEN = [
    Given(name="torch", version="2.13.0", metadata=b""),
    Given(name="deepspeed", version="1", metadata=METADATA),
]
LOOK = {
    "path": "/opt/my env/bin/python",
    "version": "3.11.9",
    "implementation": "cpython",
    "abi": "",
    "sites": ["/opt/my env/lib/python3.11/site-packages"],
    "versions": {
        "torch": "2.13.0",
        "einops": "0.8.1",
        "hjson": "3.1.0",
        "transformers": "5.0",
        "peft": "1",
        "datasets": "5",
        "trl": "1",
    },
    "torch": "2.13.0+cpu",
    "torch_cuda": None,
}


def judged(make_manifest, **changes):
    return compare_existing(make_manifest(), GIVEN, {"node1": {**LOOK, **changes}})


def test_one_that_fits(make_manifest):
    report = judged(make_manifest)
    assert report.ok
    assert not report.hurting


@pytest.mark.parametrize(
    ("changes", "subject", "found"),
    [
        ({"torch": "2.12.0+cpu"}, "torch", "2.12.0+cpu"),
        ({"torch": None}, "torch", "no torch"),
        ({"torch_cuda": "13.0"}, "torch", "2.13.0+cpu for CUDA 13.0"),
        ({"abi": "t"}, "python.abi", "cpython, ABI t"),
        ({"implementation": "pypy"}, "python.abi", "pypy"),
    ],
)
def test_what_does_not_fit_is_named(make_manifest, changes, subject, found):
    (finding,) = judged(make_manifest, **changes).failing
    assert (finding.subject, finding.found) == (subject, found)


def test_what_the_wheel_requires_and_is_not_there_is_named_with_its_command(make_manifest):
    there = {**LOOK["versions"], "einops": "0.7"}
    del there["hjson"]
    (finding,) = judged(make_manifest, versions=there).failing
    assert finding.found == "einops>=0.8 (0.7), hjson (none)"
    assert finding.remedy == "there: '/opt/my env/bin/python' -m pip install 'einops>=0.8' hjson"


def test_what_only_recipes_need_is_a_warning(make_manifest):
    there = {name: version for name, version in LOOK["versions"].items() if name != "trl"}
    report = judged(make_manifest, versions=there)
    assert report.ok
    assert [finding.found for finding in report.hurting] == ["no trl"]


def test_no_such_python_is_one_finding(make_manifest):
    report = compare_existing(make_manifest(), GIVEN, {"node1": {"error": "/x: No such file"}})
    (finding,) = report.findings
    assert (finding.found, finding.fails) == ("/x: No such file", True)


def test_a_hosts_line_goes_before_the_flag():
    inventory = parse_inventory("node1 python=~/conda/bin/python\nnode2 slots=8\n", "hosts.txt")
    assert pythons_of(inventory, "/opt/x") == {"node1": "~/conda/bin/python", "node2": "/opt/x"}
    for default in (None, "python3", "~me/python"):
        with pytest.raises(ConfigError, match=r"node2: --env-python: .*python=PATH on the host"):
            pythons_of(inventory, default)


def test_the_plan_puts_the_wheel_alone_over_it(make_manifest, make_facts):
    manifest = make_manifest()
    spec = make_existing_spec(manifest, Path("w") / manifest.wheel, (), ["/opt/my env/bin/python"])
    other = make_existing_spec(manifest, spec.wheel, (), ["/opt/other/bin/python"])
    assert spec.name != other.name
    uv = Package(path=Path("uv-1-py3-none-musllinux_1_1_x86_64.whl"), sha256="aa" * 32)
    uv.__dict__["size"] = 7
    platform = Platform(machine="x86_64", glibc=(2, 36), python_tag="cp311")
    house = Wheelhouse(platform=platform, packages=(), uv=uv, missing=())
    facts = with_existing(make_facts(), LOOK)
    plan = plan_deploy(spec, {"node1": facts}, house)
    assert sum(step.do.size for step in plan.phases[0].steps) == manifest.size + 7
    (install,) = plan.phases[1].steps
    (prove,) = plan.phases[2].steps
    asked = json.loads(json.loads(base64.b64decode(install.do.argv[-1]))[-1])
    assert asked["sites"] == LOOK["sites"]
    assert asked["python"] == LOOK["path"]
    proof = json.loads(json.loads(base64.b64decode(prove.do.argv[-1]))[-1])
    assert proof["base"] == LOOK["path"]
    assert "versions" not in proof  # what else is there is the user's


def test_a_host_whose_python_gives_no_answer_is_as_it_was(make_facts):
    facts = make_facts()
    assert with_existing(facts, {"error": "none"}) is facts

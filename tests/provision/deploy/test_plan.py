"""Deploy: only what a host lacks, and nothing at all when nothing differs."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from provision.deploy.plan import deployed, plan_deploy
from provision.deploy.platform import Platform
from provision.deploy.spec import make_env_spec, without
from provision.deploy.wheelhouse import Package, Pin, Wheelhouse
from provision.errors import ConfigError

LOCK = "transformers==5.23.0 \\\n    --hash=sha256:aa\nsympy==1.14.0 \\\n    --hash=sha256:bb\n"


@pytest.fixture
def spec(make_manifest):
    manifest = make_manifest()
    return make_env_spec(LOCK, manifest, Path("wheels") / manifest.wheel)


@pytest.fixture
def with_extra(make_manifest, extra):
    """The environment with transformers from source."""
    manifest = make_manifest()
    return make_env_spec(LOCK, manifest, Path("wheels") / manifest.wheel, (extra,))


def phases(plan):
    return {phase.name: [step.host for step in phase.steps] for phase in plan.phases}


def arguments(step):
    """What a step's script is asked, where that is one JSON object."""
    return json.loads(json.loads(base64.b64decode(step.do.argv[-1]))[-1])


def test_torch_comes_from_the_manifest_to_the_byte_and_shared_packages_from_the_lock(spec):
    lines = spec.requirements.splitlines()
    assert f"torch==2.13.0+cpu --hash=sha256:{'ef' * 32}" in lines
    assert sum(line.startswith("sympy==") for line in lines) == 1


def test_a_manifest_without_torch_is_refused(make_manifest):
    with pytest.raises(ConfigError, match="no torch in its list"):
        make_env_spec(LOCK, make_manifest(requires=()), Path("x.whl"))


@pytest.mark.parametrize("change", [{"sha256": "00" * 32}, {"python_tag": "cp312"}])
def test_the_environments_name_follows_everything_in_it(spec, make_manifest, change):
    assert make_env_spec(LOCK, make_manifest(**change), spec.wheel).name != spec.name
    assert make_env_spec(LOCK + "\n", make_manifest(), spec.wheel).name == spec.name
    assert make_env_spec(LOCK + "x==1\n", make_manifest(), spec.wheel).name != spec.name


def test_a_bare_host_gets_everything_and_switches_last(spec, make_facts):
    plan = plan_deploy(spec, {name: make_facts(name) for name in ("node1", "node2")})
    assert list(phases(plan)) == ["push", "install", "prove", "switch"]
    assert phases(plan)["push"] == ["node1", "node1", "node2", "node2"]
    assert sum(step.do.size for step in plan.phases[0].steps) == 2 * (
        spec.manifest.size + len(spec.requirements)
    )
    assert "/usr/bin/python3" in str(plan)


def test_a_shared_home_gets_one_environment_that_all_its_hosts_prove(spec, make_facts):
    place = {"home.place": "nas:/home 7 .zerofleet"}
    hosts = {name: make_facts(name, **place) for name in ("node1", "node2", "node3")}
    hosts["node4"] = make_facts("node4")
    plan = plan_deploy(spec, hosts)
    elsewhere = "prove where the home is another host's"
    assert list(phases(plan)) == ["push", "install", elsewhere, "prove", "switch"]
    assert phases(plan)["push"] == ["node1", "node1", "node4", "node4"]
    assert phases(plan)["install"] == phases(plan)["switch"] == ["node1", "node4"]
    # The record is written after all have proved it.
    assert phases(plan)[elsewhere] == ["node2", "node3"]
    assert phases(plan)["prove"] == ["node1", "node4"]
    proofs = {phase.name: phase.steps[0] for phase in plan.phases if "prove" in phase.name}
    assert [arguments(step)["record"] for step in proofs.values()] == [False, True]
    assert {host["changed"] for host in deployed(spec, plan, hosts).values()} == {True}


def test_a_shared_home_in_use_everywhere_is_left_alone_or_switched_once(spec, make_facts):
    held = {"home.place": "nas:/home 7 .zerofleet", "environments": [spec.name]}
    used = {**held, "environment": {"lock": spec.name}}
    assert plan_deploy(spec, {name: make_facts(name, **used) for name in ("a", "b")}).empty
    hosts = {name: make_facts(name, **held) for name in ("a", "b")}
    assert phases(plan_deploy(spec, hosts)) == {"switch": ["a"]}


def test_nothing_to_do_when_nothing_differs(spec, make_facts):
    facts = make_facts(environments=[spec.name], environment={"lock": spec.name})
    plan = plan_deploy(spec, {"node1": facts})
    assert plan.empty
    assert deployed(spec, plan, {"node1": facts}) == {
        "node1": {
            "changed": False,
            "bytes_sent": 0,
            "env": f"/home/ubuntu/.zerofleet/envs/{spec.name}",
        }
    }


def test_a_host_that_has_it_but_uses_another_only_switches(spec, make_facts):
    facts = make_facts(environments=["old", spec.name], environment={"lock": "old"})
    assert phases(plan_deploy(spec, {"node1": facts})) == {"switch": ["node1"]}


def test_pushed_files_are_not_pushed_again(spec, make_facts):
    held = [f"{spec.manifest.sha256}/{spec.manifest.wheel}"]
    plan = plan_deploy(spec, {"node1": make_facts(store=held)})
    assert sum(step.do.size for step in plan.phases[0].steps) == len(spec.requirements)
    held.append(f"{spec.requirements_sha256}/requirements.txt")
    assert "push" not in phases(plan_deploy(spec, {"node1": make_facts(store=held)}))


def test_one_bare_host_among_complete_ones_leaves_them_alone(spec, make_facts):
    done = make_facts("node1", environments=[spec.name], environment={"lock": spec.name})
    plan = plan_deploy(spec, {"node1": done, "node2": make_facts("node2")})
    assert {step.host for phase in plan.phases for step in phase.steps} == {"node2"}


def test_an_extra_wheel_takes_the_place_of_the_locked_package(spec, with_extra):
    assert "transformers" in spec.requirements
    assert "transformers" not in with_extra.requirements
    assert "sympy==1.14.0" in with_extra.requirements
    assert with_extra.name != spec.name


def test_an_extra_wheels_content_is_part_of_the_environments_name(with_extra, make_manifest, extra):
    other = replace(extra, sha256="99" * 32)
    assert make_env_spec(LOCK, make_manifest(), with_extra.wheel, (other,)).name != with_extra.name


def test_an_extra_wheel_is_pushed_and_installed_beside_deepspeeds(with_extra, make_facts, extra):
    plan = plan_deploy(with_extra, {"node1": make_facts("node1")})
    assert "transformers 5.24.0.dev0 from transformers" in str(plan)
    pushed = [step.do for step in plan.phases[0].steps]
    assert [put.target.split("/")[-1] for put in pushed][1] == extra.wheel
    assert pushed[1].source == Path("wheels") / extra.wheel
    (install,) = plan.phases[1].steps
    told = arguments(install)
    assert [sha256 for _, sha256 in told["wheels"]] == [with_extra.manifest.sha256, extra.sha256]


@pytest.mark.parametrize(
    ("needs", "found"),
    [
        ("sympy<1.0", "found sympy 1.14.0, expected sympy<1.0"),
        ("sentencepiece", "found no sentencepiece"),
    ],
)
def test_an_extra_wheel_that_needs_what_is_not_there_is_refused(make_manifest, extra, needs, found):
    with pytest.raises(ConfigError, match=found):
        make_env_spec(LOCK, make_manifest(), Path("x"), (replace(extra, requires=(needs,)),))


def test_an_extra_wheel_may_need_torch_deepspeed_and_its_like(make_manifest, extra):
    other = replace(extra, name="trl", requires=("transformers>=5.24.0.dev0", "torch>=2.13",
        "deepspeed>=0.19", "sympy; python_version < '3.12'"))  # fmt: skip
    spec = make_env_spec(LOCK, make_manifest(), Path("x"), (extra, other))
    assert "transformers==" not in spec.requirements


def test_a_package_leaves_a_lock_with_all_its_lines():
    lock = "# top\na==1 \\\n    --hash=x\n    # via b\nA-b==2\n    # via c\nc==3\n"
    assert without(lock, {"a", "a-b"}) == "# top\nc==3\n"
    assert without(lock, set()) == lock


@pytest.fixture
def house(tmp_path):
    """A wheelhouse of one package and uv."""
    platform = Platform(machine="x86_64", glibc=(2, 36), python_tag="cp311")
    packages = []
    for sha256, wheel in (("11" * 32, "sympy-1.14.0-py3-none-any.whl"), ("22" * 32, "uv-1.whl")):
        (tmp_path / wheel).write_bytes(b"x" * 10)
        packages.append(Package(path=tmp_path / wheel, sha256=sha256))
    return Wheelhouse(platform=platform, packages=(packages[0],), uv=packages[1], missing=())


def test_with_a_wheelhouse_hosts_get_every_file_and_download_nothing(spec, house, make_facts):
    plan = plan_deploy(spec, {"node1": make_facts()}, house)
    pushed = [step.do.target.rpartition("/")[2] for step in plan.phases[0].steps]
    assert pushed == [spec.manifest.wheel, "sympy-1.14.0-py3-none-any.whl", "uv-1.whl"]
    (install,) = plan.phases[1].steps
    told = arguments(install)
    assert [sha256 for _, sha256 in told["wheels"]] == [spec.manifest.sha256, "11" * 32]
    assert told["uv"] == [f".zerofleet/store/{'22' * 32}/uv-1.whl", "22" * 32]
    assert "requirements" not in told


def test_a_package_that_the_store_holds_is_not_pushed_again(spec, house, make_facts):
    facts = make_facts(store=[f"{'11' * 32}/sympy-1.14.0-py3-none-any.whl"])
    plan = plan_deploy(spec, {"node1": facts}, house)
    assert "sympy-1.14.0" not in str(plan.phases[0])


def test_what_is_not_here_yet_is_downloaded_first(spec, house, make_facts):
    torch = Pin(name="torch", version="2.13.0", hashes=frozenset({"ef" * 32}))
    plan = plan_deploy(spec, {"node1": make_facts()}, replace(house, uv=None, missing=(torch,)))
    assert plan.phases[0].name == "download"
    assert "this machine: download torch 2.13.0, uv for x86_64, glibc 2.36" in str(plan)


def test_the_proof_asks_for_the_version_of_every_distribution(spec, with_extra):
    assert spec.versions == {
        "transformers": "5.23.0",
        "sympy": "1.14.0",
        "torch": "2.13.0+cpu",
        "deepspeed": "0.19.8+torch2.13.cpu.x86v3",
    }
    assert with_extra.versions["transformers"] == "5.24.0.dev0"

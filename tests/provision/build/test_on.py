"""A build on a host: what is sent, and what is run there."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from provision.build.bundle import Bundle
from provision.build.on import Builder, Cargo, plan_on, read_cargo
from provision.errors import ConfigError
from provision.steps import Put, Run

CONTROLLER = Bundle(name="controller.tar.gz", content=b"code")
CODE = f".zerofleet/controllers/{CONTROLLER.sha256[:16]}"


@pytest.fixture
def make_plan():
    def make(*, source=None, extras=(), store=(), **flags):
        builder = Builder(
            host="node1",
            home="/home/me",
            python="/usr/bin/python3.11",
            tag="cp311",
            store=frozenset(store),
        )
        cargo = Cargo(controller=CONTROLLER, lock="ab" * 32, source=source, extras=extras)
        return plan_on(builder, flags, cargo).steps

    return make


def wanted(plan):
    """What onhost/build.py is told."""
    run = plan.phases[-1].steps[0].do
    assert isinstance(run, Run)
    _name, text = json.loads(base64.b64decode(run.argv[-1]))
    return json.loads(text)


def puts(plan):
    return [step.do for phase in plan.phases for step in phase.steps if isinstance(step.do, Put)]


def test_this_checkout_is_sent_and_run_there(make_plan):
    plan = make_plan(accelerator="cpu", arch=None, ops="cpu_adam")
    assert [put.size for put in puts(plan)] == [4]
    told = wanted(plan)
    assert told["unpack"] == [[puts(plan)[0].target, CONTROLLER.sha256, CODE]]
    assert told["argv"] == [
        *("sh", f"/home/me/{CODE}/zf", "build-deepspeed", "--accelerator=cpu", "--ops=cpu_adam"),
        *("--wheels=/home/me/.zerofleet/wheels", "--json"),
    ]
    assert told["environ"] == {
        "ZEROFLEET_PYTHON": "/usr/bin/python3.11",
        "ZEROFLEET_VENV": "/home/me/.zerofleet/controllers/cp311-abababababab",
    }
    assert "--ops=cpu_adam" in str(plan)


def test_native_is_nobodys_level_on_another_host(make_plan):
    with pytest.raises(ConfigError, match="--cpu native: found --on node1"):
        make_plan(cpu="native")


def test_what_the_host_has_is_not_sent_again(make_plan):
    plan = make_plan(store=[f"{CONTROLLER.sha256}/controller.tar.gz"])
    assert [phase.name for phase in plan.phases] == ["build"]


def test_a_source_folder_travels_and_is_built_from_where_it_was_unpacked(make_plan):
    source = Bundle(name="DeepSpeed.tar.gz", content=b"tree")
    told = wanted(make_plan(source=source))
    folder = f".zerofleet/sources/{source.sha256[:16]}"
    assert told["unpack"][1][1:] == [source.sha256, folder]
    assert f"--source=/home/me/{folder}/DeepSpeed" in told["argv"]


def test_a_source_archive_travels_as_it_is(make_plan, tmp_path: Path):
    archive = tmp_path / "deepspeed-0.19.8.tar.gz"
    archive.write_bytes(b"archive")
    plan = make_plan(source=archive)
    put = puts(plan)[1]
    assert put.source == archive
    assert f"--source=/home/me/{put.target}" in wanted(plan)["argv"]
    assert len(wanted(plan)["unpack"]) == 1


def test_cargo_is_read_from_here(checkout: Path, tmp_path: Path):
    (tmp_path / "setup.py").write_text("")
    assert read_cargo(checkout, None).source is None
    source = read_cargo(checkout, str(tmp_path)).source
    assert isinstance(source, Bundle)
    assert source.name == f"{tmp_path.name}.tar.gz"
    with pytest.raises(ConfigError, match="--source /nowhere: found no such file or folder"):
        read_cargo(checkout, "/nowhere")


def test_sources_of_extra_wheels_travel_too(make_plan):
    extras = (Bundle(name="a.tar.gz", content=b"a"), Bundle(name="b.tar.gz", content=b"b"))
    source = Bundle(name="DeepSpeed.tar.gz", content=b"tree")
    told = wanted(make_plan(source=source, extras=extras))
    a, b, own = (f"/home/me/.zerofleet/sources/{one.sha256[:16]}" for one in (*extras, source))
    assert f"--with-source={a}/a,{b}/b" in told["argv"]
    assert f"--source={own}/DeepSpeed" in told["argv"]

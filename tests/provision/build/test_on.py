"""A build on a host: what is sent, what is run there, and what its answer means."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from provision.build.bundle import Bundle
from provision.build.on import Builder, Cargo, parse_reply, plan_on, read_cargo
from provision.errors import BuildError, ConfigError, HostError
from provision.steps import Put, Run

CONTROLLER = Bundle(name="controller.tar.gz", content=b"code")
CODE = f".zerofleet/controllers/{CONTROLLER.sha256[:16]}"


@pytest.fixture
def make_plan():
    def make(*, source=None, store=(), **flags):
        builder = Builder(
            host="node1",
            home="/home/me",
            python="/usr/bin/python3.11",
            tag="cp311",
            store=frozenset(store),
        )
        cargo = Cargo(controller=CONTROLLER, lock="ab" * 32, source=source)
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


def test_a_wheel_comes_with_its_manifest(make_manifest):
    manifest = make_manifest()
    answer = {
        "ok": True, "exit": 0, "wheel": f"/home/me/.zerofleet/wheels/{manifest.wheel}",
        "manifest": manifest.as_json(), "cached": True, "findings": [],
    }  # fmt: skip
    report, found, path = parse_reply("node1", {"code": 0, "answer": answer, "last": ""})
    assert report.ok
    assert found == manifest
    assert found.cached
    assert path == answer["wheel"]


def test_findings_about_the_machine_that_built_name_the_host():
    finding = {
        "host": "this machine", "subject": "compiler", "level": "error",
        "found": "no g++", "expected": "g++ >= 11", "remedy": "install g++",
    }  # fmt: skip
    reply = {"code": 1, "answer": {"ok": False, "exit": 1, "findings": [finding]}, "last": ""}
    report, manifest, _path = parse_reply("node1", reply)
    assert manifest is None
    (failing,) = report.failing
    assert str(failing) == "node1: compiler: found no g++, expected g++ >= 11: install g++"


@pytest.mark.parametrize(("code", "kind"), [(4, BuildError), (2, ConfigError), (1, HostError)])
def test_the_builds_own_error_comes_back_as_it_is(code, kind):
    error = {"what": "compile", "found": "x", "expected": "a wheel", "remedy": "see the log"}
    reply = {"code": code, "answer": {"ok": False, "exit": code, "error": error}, "last": ""}
    with pytest.raises(kind, match=r"^\[node1\] compile: found x") as caught:
        parse_reply("node1", reply)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ({"code": 2, "answer": None, "last": "zf: Python: found 3.9"}, "zf: Python: found 3.9"),
        ({"code": -9, "answer": None, "last": ""}, "exit -9 and no word"),
    ],
)
def test_a_build_that_gave_no_answer_shows_its_last_line(reply, found):
    with pytest.raises(HostError, match=f"build on node1: found {found}"):
        parse_reply("node1", reply)

"""The answer of a host that built: wheels, findings or the build's own error."""

from __future__ import annotations

import pytest

from provision.build.reply import parse_reply
from provision.errors import BuildError, ConfigError, HostError


def test_wheels_come_with_their_manifests(make_manifest, extra):
    manifest = make_manifest()
    answer = {
        "ok": True, "exit": 0, "wheel": f"/home/me/.zerofleet/wheels/{manifest.wheel}",
        "manifest": manifest.as_json(), "extras": [extra.as_json()], "cached": True, "findings": [],
    }  # fmt: skip
    built = parse_reply("node1", {"code": 0, "answer": answer, "last": ""})
    assert built.report.ok
    assert built.manifest == manifest
    assert built.manifest.cached
    assert built.extras == (extra,)


def test_findings_about_the_machine_that_built_name_the_host():
    finding = {
        "host": "this machine", "subject": "compiler", "level": "error",
        "found": "no g++", "expected": "g++ >= 11", "remedy": "install g++",
    }  # fmt: skip
    reply = {"code": 1, "answer": {"ok": False, "exit": 1, "findings": [finding]}, "last": ""}
    built = parse_reply("node1", reply)
    assert built.manifest is None
    (failing,) = built.report.failing
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

"""probe.py as it runs on a host: this machine, read for real."""

from __future__ import annotations

import ast
import json
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import provision.onhost
from provision.hosts.fact_table import FACTS
from provision.script import parse_answer, script_argv

FOLDER = Path(provision.onhost.__file__).parent
#: Facts that depend on who asks, and on what this machine lets anybody see.
MAY_BE_UNKNOWN = {"firewall", "gpu.xid", "hostname.addresses"}


def probe(asked, **environ):
    """The answer of the very command that goes to a host."""
    done = subprocess.run(
        ["sh", "-c", shlex.join(script_argv("probe", [json.dumps(asked)]))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environ},
    )
    return parse_answer("node1", done.stdout, done.stderr)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked for")
    peers = ["127.0.0.1", "no-such-host.invalid"]
    return probe({"peers": peers, "paths": [f"{folder}/is/not/there"]})


def test_every_fact_of_the_table_is_answered_and_no_other(facts):
    assert set(facts) | {"clock.offset"} == set(FACTS)


def test_every_fact_is_a_value_absent_or_unknown_with_a_reason(facts):
    for name, fact in facts.items():
        assert set(fact) in ({"value"}, {"absent"}, {"unknown"}), name
    assert {name for name, fact in facts.items() if "unknown" in fact} <= MAY_BE_UNKNOWN


def test_what_can_be_known_otherwise_agrees(facts):
    assert facts["kernel"]["value"] == platform.release()
    assert facts["glibc"]["value"] == platform.libc_ver()[1]
    assert facts["disk"]["value"]["free"] <= shutil.disk_usage("/").total
    versions = {python["version"] for python in facts["pythons"]["value"]}
    assert versions, "the interpreter of this test is on PATH"


def test_routes_name_the_interface_or_the_error(facts):
    routes = facts["routes"]["value"]
    assert routes["127.0.0.1"]["interface"] == "lo"
    assert routes["127.0.0.1"]["mtu"] >= 1500
    assert "error" in routes["no-such-host.invalid"]


def test_a_path_that_is_not_there_yet_is_judged_by_its_nearest_folder(facts):
    (path,) = [path for path in facts["disks"]["value"] if path.endswith("/is/not/there")]
    disk = facts["disks"]["value"][path]
    assert disk["on"] == path.removesuffix("/is/not/there")
    assert disk["writable"]
    assert disk["free"] > 0


def test_interfaces_are_this_namespace_s_own(facts):
    (lo,) = [row for row in facts["interfaces"]["value"] if row["name"] == "lo"]
    assert lo["kind"] == "loopback"
    assert "127.0.0.1/8" in lo["addresses"]
    assert lo["mtu"] > 1500


def test_proxies_are_told_without_their_password():
    facts = probe({}, https_proxy="http://me:secret@proxy:3128", NO_PROXY="localhost")
    assert facts["proxies"]["value"]["https_proxy"] == "http://***@proxy:3128"
    assert facts["proxies"]["value"]["no_proxy"] == "localhost"
    assert "secret" not in json.dumps(facts)


def test_it_compiles_as_python_3_8():
    """No 3.8 is at hand everywhere: its grammar is what can be checked everywhere."""
    for path in FOLDER.glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))

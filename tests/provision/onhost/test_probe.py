"""probe.py as it runs on a host: this machine, read for real."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import provision.onhost

PATH = Path(provision.onhost.__file__).parent / "probe.py"


def probe(python=sys.executable, *peers):
    done = subprocess.run([python, str(PATH), *peers], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.partition("<<")[2].rpartition(">>")[0])


@pytest.fixture(scope="module")
def facts():
    return probe(sys.executable, "127.0.0.1", "no-such-host.invalid")


def test_every_fact_is_a_value_absent_or_unknown_with_a_reason(facts):
    for name, fact in facts.items():
        assert set(fact) in ({"value"}, {"absent"}, {"unknown"}), name
    assert not [name for name, fact in facts.items() if "unknown" in fact]


def test_what_can_be_known_otherwise_agrees(facts):
    assert facts["kernel"]["value"] == platform.release()
    assert facts["glibc"]["value"] == platform.libc_ver()[1]
    assert facts["disk"]["value"]["free"] <= shutil.disk_usage("/").total
    versions = {python["version"] for python in facts["pythons"]["value"]}
    assert versions, "the interpreter of this test is on PATH"


def test_routes_name_the_interface_or_the_error(facts):
    routes = facts["routes"]["value"]
    assert routes["127.0.0.1"]["interface"] == "lo"
    assert "error" in routes["no-such-host.invalid"]


def test_it_compiles_as_python_3_8():
    """No 3.8 is at hand everywhere: its grammar is what can be checked everywhere."""
    import ast

    for path in PATH.parent.glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))

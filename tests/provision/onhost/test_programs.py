"""programs.py as it runs on a host: real programs, an environment's folder of this Python."""

from __future__ import annotations

import sys

import pytest

from provision.onhost import programs

PROVE = """
import json, os, sys
wanted = json.loads(sys.argv[1])
assert wanted["record"] is False
open(os.environ["HOME"] + "/asked", "a").write("x")
if wanted.get("bad"):
    raise SystemExit("op cpu_adam does not load")
print('ZEROFLEET<<{"loads": true}>>ZEROFLEET')
"""


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    """A home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def environment(tmp_path):
    """An environment's folder; its Python is this one."""
    python = tmp_path / "home" / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    library = tmp_path / "home" / "env" / "lib" / "python3.11" / "site-packages" / "torch" / "lib"
    library.mkdir(parents=True)
    (library / "libtorch.so").write_bytes(b"1")
    return python, library / "libtorch.so"


def test_ops_are_loaded_once_for_what_is_installed(environment, tmp_path):
    python, library = environment
    asked = tmp_path / "home" / "asked"
    assert programs.prove(PROVE, str(python), {"ops": []}) == {"loads": True}
    assert programs.prove(PROVE, str(python), {"ops": []}) == {"loads": True, "seen": True}
    assert asked.read_text() == "x"
    library.write_bytes(b"22")
    assert programs.prove(PROVE, str(python), {"ops": []}) == {"loads": True}
    assert asked.read_text() == "xx"
    (library.parents[1] / "version.py").write_text("__version__ = '2.99.1'")
    assert programs.prove(PROVE, str(python), {"ops": []}) == {"loads": True}
    assert asked.read_text() == "xxx"


def test_ops_that_do_not_load_say_why_every_time(environment):
    python, _ = environment
    for _ in range(2):
        answer = programs.prove(PROVE, str(python), {"bad": True})
        assert answer == {"error": "op cpu_adam does not load"}
    missing = programs.prove(PROVE, "~/no/bin/python", {})
    assert "No such file" in missing["error"]

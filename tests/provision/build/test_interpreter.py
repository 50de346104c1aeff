from __future__ import annotations

import json

from provision.build.interpreter import parse_python


def test_python() -> None:
    facts = {"executable": "/v/bin/python", "base": "/usr/bin/python3.12", "version": "3.12.1",
             "implementation": "cpython", "header": "/usr/include/python3.12/Python.h",
             "has_header": False, "has_venv": True}  # fmt: skip
    python = parse_python(json.dumps(facts))
    assert python is not None
    assert (python.executable, python.tag) == ("/usr/bin/python3.12", "cp312")
    assert parse_python("") is None
    assert parse_python("{}") is None

"""What changes around setup.py: an op keeps its own objects, and the CPU is asked once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from provision.build.in_setup import apply_site

#: As much of setuptools as is needed: what it is told to do, and where objects would go.
BUILD_EXT = """
class build_ext:
    build_temp = "build/temp"
    seen = []
    def build_extension(self, ext):
        self.seen.append(self.build_temp)
        if ext.name == "bad":
            raise ValueError("the compiler's own error")
"""
PROGRAM = """
import json
from types import SimpleNamespace
from setuptools.command.build_ext import build_ext
one = build_ext()
for name in ("a.b", "bad", "c"):
    try:
        one.build_extension(SimpleNamespace(name=name))
    except ValueError as error:
        one.seen.append(str(error))
print(json.dumps([*one.seen, one.build_temp]))
"""


def run(tmp_path, *others):
    path = os.pathsep.join([str(tmp_path / "site"), *map(str, others)])
    argv = [sys.executable, "-S", "-c", "import sitecustomize\n" + PROGRAM]
    return subprocess.run(argv, env={"PYTHONPATH": path}, capture_output=True, text=True)


def test_each_op_gets_a_folder_and_setuptools_keeps_its_own(tmp_path):
    apply_site(tmp_path / "site")
    package = tmp_path / "other" / "setuptools" / "command"
    package.mkdir(parents=True)
    (package / "build_ext.py").write_text(BUILD_EXT)
    done = run(tmp_path, tmp_path / "other")
    assert json.loads(done.stdout) == [
        "build/temp/a.b",
        "build/temp/bad",
        "the compiler's own error",
        "build/temp/c",
        "build/temp",
    ], done.stderr


def test_a_python_without_setuptools_starts_all_the_same(tmp_path):
    apply_site(tmp_path / "site")
    argv = [sys.executable, "-S", "-c", "import sitecustomize; print('up')"]
    env = {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.stdout == "up\n", done.stderr


def test_the_cpu_is_asked_once(tmp_path):
    apply_site(tmp_path / "site")
    (tmp_path / "other").mkdir()
    asked = "def get_cpu_info():\n    print('asked')\n    return {'flags': ['avx2']}\n"
    (tmp_path / "other" / "cpuinfo.py").write_text(asked)
    program = "from cpuinfo import get_cpu_info as g; print(g() == g())"
    path = os.pathsep.join([str(tmp_path / "site"), str(tmp_path / "other")])
    argv = [sys.executable, "-S", "-c", f"import sitecustomize; {program}"]
    done = subprocess.run(argv, env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout == "asked\nTrue\n", done.stderr

"""What a user's own Python says of itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from provision.onhost import existing, install


@pytest.fixture
def theirs(tmp_path):
    """A user's virtual environment with a torch of no more than a version."""
    environment = tmp_path / "mine ü"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "torch").mkdir()
    version = (
        "from typing import Optional\n__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
    )
    (site / "torch" / "version.py").write_text(version)
    info = site / "Py_CpuInfo-9.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Py_CpuInfo\nVersion: 9.0.0\n")
    return environment


def test_it_says_what_it_has_and_nothing_is_written(theirs):
    before = sorted(theirs.rglob("*"))
    found = existing.look(str(theirs / "bin" / "python"))
    assert (found["torch"], found["torch_cuda"]) == ("2.13.0+cu130", "13.0")
    assert found["versions"]["py-cpuinfo"] == "9.0.0"
    assert found["version"] == "%d.%d.%d" % sys.version_info[:3]
    assert found["path"] == str(theirs / "bin" / "python")
    assert str(theirs) in found["sites"][0]
    assert sorted(theirs.rglob("*")) == before


def test_what_is_no_python_says_why(tmp_path):
    assert "No such file or directory" in existing.look(str(tmp_path / "none"))["error"]
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named site' >&2; exit 1\n")
    broken.chmod(0o755)
    assert existing.look(str(broken))["error"] == f"{broken}: no module named site"


def test_an_environment_over_it_imports_its_own_first_then_the_users(theirs, tmp_path):
    ours = tmp_path / "ours"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ours], check=True)
    (site,) = ours.glob("lib/python3*/site-packages")
    (their_site,) = theirs.glob("lib/python3*/site-packages")
    (their_site / "deep.py").write_text("whose = 'theirs'\n")
    (their_site / "only.py").write_text("whose = 'theirs'\n")
    (site / "deep.py").write_text("whose = 'ours'\n")
    install.import_from(str(ours), [str(their_site)])
    program = "import deep, only; print(deep.whose, only.whose)"
    argv = [ours / "bin" / "python", "-c", program]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout
    assert said == "ours theirs\n"

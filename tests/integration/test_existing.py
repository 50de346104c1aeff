"""The wheel over a Python of the user's own: added to nothing of theirs, and undone by rollback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun


def listing(folder: Path) -> dict[str, int]:
    """Every file of a folder, and when it was written; bytecode of what was imported aside."""
    files = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path): path.lstat().st_mtime_ns for path in files}


@pytest.fixture
def theirs(deployed: Fleet) -> Iterator[Path]:
    """An environment with all that is needed: node1's. Both hosts see it, as on a shared disk."""
    currents = [host.home / ".zerofleet" / "current" for host in deployed.hosts]
    before = [current.resolve() for current in currents]
    yield before[0]
    for current, environment in zip(currents, before, strict=True):
        assert current.resolve() == environment
        for other in environment.parent.glob("*/complete.json"):
            if other.parent != environment:
                shutil.rmtree(other.parent)


def test_over_a_users_own_python_and_back(deployed: Fleet, theirs: Path, zf_run: ZfRun) -> None:
    over = ["--env-source", "existing", "--env-python"]
    bare = zf_run(["deploy", *over, sys.executable, "--json"], deployed.folder)
    failing = [f for f in json.loads(bare.stdout)["findings"] if f["level"] == "error"]
    assert bare.returncode == 1, bare.stderr
    wrong = {(finding["host"], finding["subject"]) for finding in failing}
    assert wrong == {(h, s) for h in ("node1", "node2") for s in ("torch", "packages")}

    before, python = listing(theirs), str(theirs / "bin" / "python")
    done = zf_run(["deploy", *over, python, "--json"], deployed.folder)
    assert done.returncode == 0, done.stderr
    for name, host in json.loads(done.stdout)["hosts"].items():
        assert host["bytes_sent"] == 0, name  # the store had the wheel, and uv
        environment = Path(host["env"])
        assert (environment.parents[1] / "current").resolve() == environment.resolve()
        (site,) = environment.glob("lib/python3*/site-packages")
        assert not (site / "torch").exists()
        assert json.loads((environment / "complete.json").read_text())["base"] == python
    program = "import torch, deepspeed; print(torch.__file__); print(deepspeed.__file__)"
    argv = [environment / "bin" / "python", "-B", "-c", program]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-2].startswith(str(theirs))
    assert said[-1].startswith(str(environment))

    parity = zf_run(["parity", *over, python, "--json"], deployed.folder)
    assert parity.returncode == 0, parity.stderr
    assert zf_run(["rollback"], deployed.folder).returncode == 0
    assert listing(theirs) == before

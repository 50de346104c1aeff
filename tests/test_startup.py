"""How soon a command starts: what only some commands work with is not imported by all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Half a second of every command, all together.
LATER = {"fabric", "paramiko", "rich", "elftools", "cryptography", "asyncssh", "provision.demo"}
LATER |= {f"provision.{name}" for name in ("memory", "build.apply", "build.spec", "launch.plan")}
LATER |= {f"provision.{name}" for name in ("fleet", "hosts.facts", "deploy.plan", "wheel.manifest")}


def test_a_command_begins_without_what_only_others_need() -> None:
    code = "import sys, tasks; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not LATER & {*done.stdout.split()}


def test_what_a_command_imports_is_compiled_once(tmp_path: Path) -> None:
    """Invoke itself would have Python write nothing."""
    argv = [sys.executable, "-P", "-m", "invoke", "--search-root", str(ROOT), "--list"]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, check=True)
    assert [*tmp_path.rglob("provision/settings.*.pyc")]
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    environ["PYTHONPYCACHEPREFIX"] = str(tmp_path / "none")
    subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, check=True)
    assert not (tmp_path / "none").exists()

"""How soon a command starts: what only some commands work with is not imported by all."""

from __future__ import annotations

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

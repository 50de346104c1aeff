"""allreduce.py's rounds, and how it ends; what it measures needs torch: tests/integration."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import provision.onhost
from provision.script import script_argv

PATH = Path(provision.onhost.__file__).parent / "allreduce.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("allreduce", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 7, 16])
def test_rounds_hold_every_pair_once_and_every_host_once_a_round(script, hosts):
    planned = script.rounds(hosts)
    pairs = [pair for each in planned for pair in each]
    assert len(pairs) == len(set(pairs)) == hosts * (hosts - 1) // 2
    assert all(a < b < hosts for a, b in pairs)
    for each in planned:
        busy = [host for pair in each for host in pair]
        assert len(busy) == len(set(busy))
    assert len(planned) <= hosts


FAKE_TORCH = """
import os, time
open(os.environ["PIDS"] + "/" + str(os.getpid()), "w").close()
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_every_rank_ends_with_the_conversation(tmp_path, python_with):
    """Ranks that hang in an import are the worst case: nothing of torch's runs yet."""
    pids = tmp_path / "pids"
    pids.mkdir()
    process = subprocess.Popen(
        script_argv("allreduce", (), python_with({"torch/__init__.py": FAKE_TORCH})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PIDS": str(pids)},
    )
    order = {"first_rank": 0, "nproc": 3, "backend": "gloo", "environ": {}}
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()
    until = time.monotonic() + 120
    while len(list(pids.iterdir())) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    ranks = [int(path.name) for path in pids.iterdir()]
    assert len(ranks) == 3
    process.communicate()
    while any(map(alive, ranks)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, ranks))


def test_what_fails_is_one_answer_with_the_reason(python_with):
    python = python_with({"torch.py": "raise RuntimeError('no such backend')"})
    order = {"first_rank": 0, "nproc": 1, "backend": "gloo", "environ": {}}
    with subprocess.Popen(
        script_argv("allreduce", (), python),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        said = process.stdout.read().decode()
    assert 'ZEROFLEET<<{"error": "RuntimeError: no such backend"}>>ZEROFLEET' in said
    assert process.returncode == 1

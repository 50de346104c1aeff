"""The --json contract of README.md: one object on stdout, keys that scripts depend on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from provision.demo.fleet import Fleet
    from tests.integration.conftest import ZfRun

FINDING = {"host", "subject", "level", "found", "expected", "remedy"}
LEVELS = {"ok", "note", "warn", "error", "unknown"}
STEP = {"host", "action", "why"}


@pytest.fixture
def ask(deployed: Fleet, zf_run: ZfRun):
    """The one object that a command prints, its exit code checked."""

    def run(*args: str, code: int = 0) -> dict[str, Any]:
        done = zf_run([*args, "--json"], deployed.folder)
        assert done.returncode == code, done.stderr
        assert done.stdout.count("\n") == 1, "exactly one line on stdout"
        answer: dict[str, Any] = json.loads(done.stdout)
        assert (answer["ok"], answer["exit"]) == (code == 0, code)
        for finding in answer.get("findings", []):
            assert set(finding) >= FINDING
            assert finding["level"] in LEVELS
        return answer

    return run


def test_build(ask) -> None:
    answer = ask("build-deepspeed")
    assert {"wheel", "manifest", "cached"} <= set(answer)
    assert answer["manifest"]["ops"] == ["cpu_adam", "shm_comm"]


def test_toolchain(ask) -> None:
    subjects = {finding["subject"] for finding in ask("toolchain")["findings"]}
    assert subjects >= {"CPU", "Python", "compiler", "memory", "disk"}


def test_hosts(ask) -> None:
    answer = ask("hosts")
    assert set(answer["hosts"]) == {"node1", "node2"}
    for facts in answer["hosts"].values():
        for fact in facts.values():
            assert set(fact) <= {"value", "absent", "unknown"}
        assert facts["gpu.driver"] == {"absent": True} or "value" in facts["gpu.driver"]


@pytest.mark.parametrize("command", ["parity", "preflight"])
def test_reports(ask, command: str) -> None:
    assert {f["host"] for f in ask(command)["findings"]} == {"node1", "node2"}


def test_deploy(ask) -> None:
    for did in ask("deploy")["hosts"].values():
        assert set(did) >= {"changed", "bytes_sent", "env"}


@pytest.mark.parametrize("command", ["build-deepspeed", "deploy", "train"])
def test_dry_runs(ask, command: str) -> None:
    for phase in ask(command, "--dry-run")["plan"]["phases"]:
        assert set(phase) >= {"name", "steps"}
        for step in phase["steps"]:
            assert set(step) >= STEP


def test_train(ask) -> None:
    answer = ask("train", "--set", "max_steps=2")
    wanted = {"run", "state", "ranks", "first_failure", "loss", "adapter", "collected"}
    assert wanted <= set(answer)
    for rank in answer["ranks"]:
        assert set(rank) >= {"host", "node_rank", "local_rank", "rank", "state", "exit"}


def test_a_configuration_error(ask) -> None:
    assert set(ask("train", "--zero", "9", code=2)["error"]) >= {
        "what", "found", "expected", "remedy"
    }  # fmt: skip

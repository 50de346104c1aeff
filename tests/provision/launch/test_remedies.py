"""What is known of a failure by its words, and what is not known stays unsaid."""

from __future__ import annotations

import pytest

from provision.launch.failure import parse_outcome
from provision.launch.remedies import REMEDIES, find_remedy


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("torchrun: exit code 1: torch.distributed.DistNetworkError: The server socket has failed "
         "to listen on any local network address. port: 29500, useIpv6: false, code: -98, name: "
         "EADDRINUSE, message: address already in use", "another process listens"),
        ("OSError: [Errno 28] No space left on device", "a disk of that host is full"),
        ("killed by signal 7 (SIGBUS)", "shared memory"),
        ("torch.AcceleratorError: CUDA error: no kernel image is available for execution on the "
         "device", "compiled code in use"),
        ("RuntimeError: CUDA error: unspecified launch failure; meanwhile the GPU's driver said "
         "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", "a GPU of that host"),
        ("ncclInvalidUsage: Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
         "two ranks were given one GPU"),
        ("ModuleNotFoundError: No module named 'flash_attn'", "the environment of that host"),
    ],
)  # fmt: skip
def test_known_causes(reason: str, cause: str) -> None:
    found = find_remedy(reason)
    assert found is not None
    assert found.cause.startswith(cause)
    assert find_remedy("exit code 1", ("before", reason, "after")) is found


@pytest.mark.parametrize(
    "reason", ["killed by signal 9 (SIGKILL)", "ValueError: boom", "Connection closed by peer"]
)
def test_what_is_not_known_gets_no_remedy(reason: str) -> None:
    assert find_remedy(reason) is None


def test_every_fact_has_its_source() -> None:
    assert all(known.source.startswith("https://") for known in REMEDIES)


def test_the_report_of_a_run_says_it() -> None:
    failure = {"rank": 0, "local_rank": 0, "at": 5.0, "reason": "OSError: [Errno 28] No space left "
               "on device", "lines": [], "symptom": False}  # fmt: skip
    ended = {"node_rank": 0, "state": "failed", "started_at": 0.0, "ended_at": 6.0, "ranks": [],
             "first_failure": failure, "jit_compiled": [], "loss": None}  # fmt: skip
    outcome = parse_outcome("r", {"node1": ended})
    assert "\n  known: a disk of that host is full: free some" in str(outcome)
    known = outcome.as_json()["known"]
    assert isinstance(known, dict)
    assert known["cause"] == "a disk of that host is full"

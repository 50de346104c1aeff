"""Which ends of ranks are only the consequence of another's, by what each kind of end leaves."""

from __future__ import annotations

import pytest

from provision.onhost.symptoms import exit_reason, is_symptom, is_symptomatic_end

LOGGER = "wandb: ERROR Connection reset by peer (pushed 3 rows, retrying)"
TIMEOUT = (
    "[rank1]:[E1122 10:00:00.0 ProcessGroupNCCL.cpp:685] [Rank 1] Watchdog caught collective "
    "operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE, Timeout(ms)=600000)"
)


@pytest.mark.parametrize(
    "message",
    [
        "RuntimeError: [/p/gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.2]:1",
        "RuntimeError: [/p/gloo/transport/tcp/pair.cc:554] Application timeout caused pair closure",
        "RuntimeError: [/p/gloo/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv",
        "RuntimeError: [Rank 0]: Rank 2 failed to pass monitoredBarrier in 10000 ms",
        "DistBackendError: NCCL error in: /p/NCCLUtils.cpp:77, remote process exited or there was "
        "a network error, NCCL version 2.27.3\nLast error:\nsocketProgress: Connection closed by "
        "remote peer node2<4711>",
        "torch.distributed.DistBackendError: NCCL communicator was aborted on rank 1. Original",
        "DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed. Did the "
        "remote server shutdown or crash?",
        "DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined.",
        "torch.distributed.DistStoreError: wait timeout after 600000ms, keys: /worker/1",
    ],
)
def test_a_collective_that_fails_is_a_consequence(message: str) -> None:
    assert is_symptom(message)
    assert is_symptomatic_end(1, f"exit code 1: {message}", [])
    assert is_symptom(f"torchrun: exit code 1: {message}")


@pytest.mark.parametrize(
    "message",
    [
        "ValueError: my bug, Connection reset by peer is what I call it",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "no tokenizer can be loaded from the hub: Connection reset by peer",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local "
        "network address. port: 29500, code: -98, name: EADDRINUSE",
    ],
)
def test_an_error_of_its_own_is_none_whatever_words_it_has(message: str) -> None:
    assert not is_symptom(message)
    assert not is_symptomatic_end(1, f"exit code 1: {message}", [LOGGER, TIMEOUT])


@pytest.mark.parametrize("code", [-9, -11, -7, -4, -8])
def test_a_signal_is_a_cause_whatever_was_logged_before(code: int) -> None:
    assert not is_symptomatic_end(code, exit_reason(code, []), [LOGGER, TIMEOUT])


def test_the_watchdogs_abort_is_told_from_an_abort_of_the_ranks_own() -> None:
    assert is_symptomatic_end(-6, exit_reason(-6, []), [TIMEOUT, *["frame #0: x"] * 30])
    assert not is_symptomatic_end(-6, exit_reason(-6, []), [LOGGER, "double free or corruption"])
    assert is_symptomatic_end(-15, exit_reason(-15, []), [])


def test_an_exception_whose_exit_took_down_a_thread_is_why_a_rank_ended() -> None:
    torn = "terminate called without an active exception"
    boom = ["Traceback (most recent call last):", "[rank2]: ValueError: boom", torn]
    reason = exit_reason(-6, boom)
    assert reason == "ValueError: boom; as it exited, killed by signal 6 (SIGABRT)"
    assert not is_symptomatic_end(-6, reason, boom)
    gone = ["RuntimeError: gloo says: Connection closed by peer", torn]
    assert is_symptomatic_end(-6, exit_reason(-6, gone), gone)
    for lines in (boom[:2], [torn]):
        assert exit_reason(-6, lines) == "killed by signal 6 (SIGABRT)"
    assert exit_reason(-11, boom) == "killed by signal 11 (SIGSEGV)"


def test_an_exception_is_found_behind_the_rank_that_torch_puts_before_it() -> None:
    lines = ["[rank2]: Traceback (most recent call last):", "[rank2]: ValueError: boom"]
    assert exit_reason(1, lines) == "exit code 1: ValueError: boom"
    assert exit_reason(1, [*lines[1:], "[rank2]: ends"]) == "exit code 1: ValueError: boom"


def test_what_python_ignored_or_a_thread_met_is_not_why_a_rank_ended() -> None:
    lines = [
        "Exception in thread Thread-3 (upload):",
        "requests.exceptions.ConnectionError: ('Connection aborted.', 104)",
        "[rank0]: ValueError: boom",
        "Exception ignored in: <_io.TextIOWrapper name='<stdout>'>",
        "BrokenPipeError: [Errno 32] Broken pipe",
    ]
    assert exit_reason(1, lines) == "exit code 1: ValueError: boom"

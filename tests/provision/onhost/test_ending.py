"""What is to blame for a node's end, by when it happened."""

from __future__ import annotations

import json
import os

from provision.onhost.ending import blame_until, read_failures, with_kernel

PLAN = {"nproc_per_node": 1, "first_rank": 0}


def test_an_error_written_after_the_stop_is_no_cause_though_its_file_is_a_tick_older(tmp_path):
    folder = tmp_path / "ranks" / "x" / "attempt_0" / "0"
    folder.mkdir(parents=True)
    error = folder / "error.json"
    error.write_text(json.dumps({"message": {"message": "boom", "extraInfo": {"timestamp": 99}}}))
    end = {"stopped_at": 100.0, "torchrun_ended_at": 103.0}
    for written, failed in ((99.995, []), (100.5, []), (99.9, [0])):
        os.utime(error, (written, written))
        assert list(read_failures(str(tmp_path), PLAN, blame_until(end))) == failed
    assert blame_until({**end, "stopped_at": None}) == 103.0


def test_what_the_kernel_said_is_evidence_and_a_failed_gpu_is_named() -> None:
    xid = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus."
    failure = {"reason": "RuntimeError: CUDA error", "lines": ["a"], "symptom": False}
    found = with_kernel(dict(failure), [xid])
    assert found["reason"] == f"RuntimeError: CUDA error; meanwhile the GPU's driver said {xid}"
    assert found["lines"] == ["a", f"kernel: {xid}"]
    assert with_kernel({**failure, "symptom": True}, [xid])["reason"] == "RuntimeError: CUDA error"
    assert with_kernel(dict(failure), []) == failure

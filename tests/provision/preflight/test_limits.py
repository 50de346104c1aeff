"""What a host allows a run, judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provision.findings import Judge, Level
from provision.preflight.limits import judge_among, judge_limits
from tests.provision.preflight.conftest import ANSWER, NODES

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def judged(wanted, nodes):
    """Findings above ok of node2 alone."""

    def judge(answer=ANSWER, run=wanted, **facts):
        host = nodes("node2", **facts)["node2"]
        found = judge_limits(Judge(host="node2"), run, host, answer)
        return [f"{f.level}: {f}" for f in found if f.level is not Level.OK]

    return judge


def test_a_healthy_host(judged):
    assert judged() == []


def test_shared_memory_as_docker_gives_it(judged):
    (line,) = judged(shm={"total": 64 * MIB, "free": 64 * MIB})
    assert line.startswith("error: node2: /dev/shm: found 67.1 MB free of 67.1 MB, expected 536.9")
    assert "--shm-size" in line


def test_shared_memory_that_is_full_is_to_be_looked_at_not_enlarged(judged):
    (line,) = judged(shm={"total": 8 * GIB, "free": 300 * MIB})
    assert line.startswith("warn: node2: /dev/shm")
    assert "something fills it" in line


def test_open_files_are_held_to_the_number_of_ranks(judged, wanted):
    many = replace(wanted, slots=dict.fromkeys([*NODES, "node5"], 64))
    (line,) = judged(run=many, memory={"available": 999 * GIB, "total": 999 * GIB})
    assert line.startswith("error: node2: open files: found 1024, expected 2816 or more, for 320")
    unlimited = {"nofile": {"soft": None}}
    assert judged(run=many, memory={"available": 999 * GIB}, limits=unlimited) == []


def test_locked_memory_matters_with_infiniband_only(judged, wanted):
    cuda = replace(wanted, accelerator="cuda")
    ports = [{"device": "mlx5_0", "state": "ACTIVE"}]
    (line,) = judged(run=cuda, infiniband=ports)
    assert line.startswith("error: node2: memlock: found 8.4 MB")
    assert judged(run=cuda) == []
    assert judged(infiniband=ports) == []


def test_memory_that_a_cgroup_does_not_give(judged):
    (line,) = judged(memory_limit={"limit": 512 * MIB, "used": 100 * MIB})
    assert line.startswith(
        "error: node2: memory: found 432.0 MB left of the cgroup's 536.9 MB, expected 1.1 GB at "
        "the very least, for 1 ranks"
    )


def test_memory_for_the_weights_of_every_rank_on_the_cpu_and_the_offloaded_optimizer(
    judged, wanted
):
    answer = {**ANSWER, "model": {"bytes": 14e9, "dtype": "bfloat16", "hidden_size": 4096}}
    memory = {"total": 64 * GIB, "available": 15 * 10**9}
    (line,) = judged(answer, memory=memory)
    assert "expected 15.1 GB at the very least" in line
    full = replace(wanted, accelerator="cuda", flags={"use_peft": False})
    assert judged(answer, run=full, memory=memory) == []
    (line,) = judged(answer, run=replace(full, offload="optimizer"), memory=memory)
    assert line.startswith("error: node2: memory")


def test_memory_that_could_not_be_read_is_unknown(judged):
    (line,) = judged(memory={"unknown": "no /proc"})
    assert line.startswith("unknown: node2: memory: found unknown (no /proc)")


def test_ops_that_do_not_load(judged):
    (line,) = judged({**ANSWER, "ops": {"error": "op cpu_adam does not load: undefined symbol"}})
    assert "error: node2: ops: found op cpu_adam does not load: undefined symbol" in line
    assert "invoke deploy" in line


def test_ops_of_an_environment_that_is_not_there_are_not_asked_about(judged):
    answer = {**ANSWER, "ops": {"error": "bin/python: No such file or directory"}}
    assert judged(answer, environments=["another"]) == []


def test_processes_that_end_at_logout(judged):
    (line,) = judged({**ANSWER, "logout": {"kills": True, "user": "ada"}})
    assert "KillUserProcesses=yes" in line
    assert "loginctl enable-linger ada" in line


def test_a_lock_of_somebody_elses_build_is_a_note(judged):
    (line,) = judged({**ANSWER, "locks": [{"path": "/e/cpu_adam/lock", "age": 7200}]})
    assert line.startswith("note: node2: extensions lock: found /e/cpu_adam/lock, 120 minutes old")


@pytest.fixture
def among(wanted, nodes):
    def judge(answers=None, host=None, **facts):
        answers = answers or dict.fromkeys(NODES, ANSWER)
        found = judge_among(wanted, nodes(host, **facts), answers)
        return [f"{f.level}: {f}" for f in found if f.level is not Level.OK]

    return judge


def test_hosts_alike_have_no_finding(among):
    assert among() == []


@pytest.mark.parametrize(
    ("seconds", "level"), [(1.5, None), (5.0, "warn"), (-5.0, "warn"), (60.0, "error")]
)
def test_a_clock_that_is_off(among, seconds, level):
    lines = among(host="node3", **{"clock.offset": {"seconds": seconds, "bound": 0.1}})
    assert [line.split(": ")[:3] for line in lines] == (
        [[level, "node3", "clock"]] if level else []
    )


def test_a_clock_of_which_nothing_certain_is_known_is_not_accused(among):
    assert among(host="node3", **{"clock.offset": {"seconds": 5.0, "bound": 4.0}}) == []


def test_a_controller_whose_own_clock_is_off_accuses_nobody(among):
    assert among(**{"clock.offset": {"seconds": 300.0, "bound": 0.1}}) == []


def test_a_cpu_quota_is_held_against_the_others(among):
    (line,) = among(host="node2", cpu_cores=8, cpu_quota=0.5)
    assert line.startswith("error: node2: cpu cores: found 0.5 a rank")


def test_hosts_that_share_a_home_can_not_have_a_part_of_a_run_each(among):
    shared = {"home.place": "nas:/home 7 .zerofleet"}
    assert among(host="node2", **shared) == []
    lines = among(**shared)
    assert [line.split(": ")[:3] for line in lines] == [["error", h, "home"] for h in NODES[1:]]
    assert "found the very folder that node1 has" in lines[0]
    assert "invoke slurm" in lines[0]

"""A host aside from its network, GPUs and disks: what cgroups leave of its CPU and memory."""

from __future__ import annotations

import pytest

from provision.onhost import probe_host


@pytest.fixture
def files(monkeypatch):
    """The files that the probe finds, in place of this machine's."""

    return lambda texts: monkeypatch.setattr(probe_host, "read_file", texts.get)


MEMINFO = "MemTotal: 1000000 kB\nMemAvailable: 900000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
UNIFIED = {
    "/proc/meminfo": MEMINFO,
    "/proc/self/cgroup": "0::/user.slice/session-1.scope\n",
    "/sys/fs/cgroup/user.slice/session-1.scope/memory.max": "734003200",
    "/sys/fs/cgroup/user.slice/session-1.scope/cpu.max": "max 100000",
    "/sys/fs/cgroup/user.slice/memory.max": "536870912",
    "/sys/fs/cgroup/user.slice/memory.current": "136314880",
    "/sys/fs/cgroup/user.slice/memory.stat": "anon 900000\nfile 134217728\nactive_file 67108864\n"
    "inactive_file 66060288\nslab_reclaimable 2097152\nslab_unreclaimable 8192\n",
    "/sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
}
SPLIT = {
    "/proc/meminfo": MEMINFO,
    "/proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "268435456",
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "69632",
    "/sys/fs/cgroup/memory/job/memory.stat": "inactive_file 8192\nactive_file 8192\n"
    "total_inactive_file 32768\ntotal_active_file 32768\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000",
    "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
}


def test_the_tightest_cgroup_above_us_counts(files):
    files(UNIFIED)
    assert probe_host.read_memory_limit() == {"limit": 536870912, "used": 1048576}
    assert probe_host.read_cpu_quota() == 1.5


def test_cgroups_of_version_1(files):
    files(SPLIT)
    assert probe_host.read_memory_limit() == {"limit": 268435456, "used": 4096}
    assert probe_host.read_cpu_quota() == 0.5


def test_the_cgroup_that_leaves_the_least_counts_not_the_smallest(files):
    left = {**UNIFIED, "/sys/fs/cgroup/user.slice/session-1.scope/memory.current": "734003200"}
    files(left)
    assert probe_host.read_memory_limit() == {"limit": 734003200, "used": 734003200}


def test_a_cgroup_that_limits_nothing_is_absent(files):
    files({"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/\n"})
    assert probe_host.read_memory_limit() is None
    assert probe_host.read_cpu_quota() is None

"""A host aside from its network and GPUs: cgroups, disks, Pythons, what was deployed."""

from __future__ import annotations

import sys
import threading

import pytest

from provision.onhost import probe_host
from provision.onhost.probe_read import Failed, output, reason, side_by_side


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
    "/sys/fs/cgroup/user.slice/memory.current": "1048576",
    "/sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
}
SPLIT = {
    "/proc/meminfo": MEMINFO,
    "/proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n0::/\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "268435456",
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "4096",
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


def test_a_cgroup_that_limits_nothing_is_absent(files):
    files({"/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/\n"})
    assert probe_host.read_memory_limit() is None
    assert probe_host.read_cpu_quota() is None


def test_mounts_are_found_by_the_longest_path(files):
    mounts = "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\nnas:/m /data/my\\040models nfs4 rw 0 0"
    files({"/proc/self/mounts": mounts})
    assert probe_host.read_mount("/data/my models/7b") == ("/data/my models", "nfs4", "nas:/m")
    assert probe_host.read_mount("/data/my") == ("/data", "xfs", "/dev/b")
    assert probe_host.read_mount("/database") == ("/", "ext4", "/dev/a")


def test_a_home_s_place_is_the_same_on_hosts_that_share_it_alone(tmp_path, files, monkeypatch):
    boot = "/proc/sys/kernel/random/boot_id"
    monkeypatch.setenv("HOME", str(tmp_path))

    def place(machine: str, source: str, kind: str) -> object:
        files({"/proc/self/mounts": f"{source} / {kind} rw 0 0", boot: machine})
        return probe_host.read_home_place()

    assert place("boot1", "nas:/home", "nfs4") == place("boot2", "nas:/home", "nfs4")
    assert place("boot1", "gpfs0", "gpfs") == place("boot2", "gpfs0", "gpfs")
    assert place("boot1", "nas:/home", "nfs4") != place("boot1", "nas:/other", "nfs4")
    assert place("boot1", "/dev/vda", "ext4") != place("boot2", "/dev/vda", "ext4")
    before = place("boot1", "/dev/vda", "ext4")
    (tmp_path / ".zerofleet").mkdir()
    assert place("boot1", "/dev/vda", "ext4") == before
    (tmp_path / ".zerofleet").rmdir()
    (tmp_path / ".zerofleet").symlink_to("elsewhere")
    assert place("boot1", "/dev/vda", "ext4") != before


def test_a_read_only_or_noexec_mount_is_told():
    assert probe_host.read_disk("/proc/self/fd")["type"] == "proc"
    assert probe_host.read_disk("/proc")["mount"] == "/proc"


def test_interpreters_are_asked_once_each(tmp_path, monkeypatch):
    (tmp_path / "python3").symlink_to(sys.executable)
    (tmp_path / "python").symlink_to(sys.executable)
    shim = tmp_path / "python3.9"
    shim.write_text("#!/bin/sh\necho 'version 3.9 is not installed' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (python,) = probe_host.read_pythons()
    assert python["version"] == "{}.{}.{}".format(*sys.version_info[:3])


def test_what_the_environment_s_folder_holds_now(tmp_path, monkeypatch):
    site = tmp_path / ".zerofleet/current/lib/python3.11/site-packages"
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "version.py").write_text(
        "__version__ = '2.13.0+cu130'\ndebug = False\ncuda: Optional[str] = '13.0'\n"
    )
    for name in ("nvidia_nccl_cu13-2.27.7", "deepspeed-0.19.8+x", "deepspeed_kernels-0.1"):
        (site / f"{name}.dist-info").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert probe_host.read_environment_now() == {
        "torch": "2.13.0+cu130",
        "torch_cuda": "13.0",
        "nccl": "2.27.7",
        "deepspeed": "0.19.8+x",
    }


def test_a_torch_without_cuda_has_none(tmp_path, monkeypatch):
    site = tmp_path / ".zerofleet/current/lib/python3.11/site-packages/torch"
    site.mkdir(parents=True)
    (site / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert probe_host.read_environment_now()["torch_cuda"] is None


def test_one_that_never_answers_hides_no_other():
    never = threading.Event()
    found = side_by_side({"dead": never.wait, "alive": lambda: 1}, 0.05)
    never.set()
    assert found["alive"] == 1
    assert reason(found["dead"]) == "no answer in 0 s"


def test_a_failed_command_says_all_that_it_said():
    with pytest.raises(Failed, match="sh: exit 3: one; two"):
        output(["/bin/sh", "-c", "echo one; echo two; exit 3"])
    with pytest.raises(Failed, match="sh: no answer in 0 s"):
        output(["/bin/sh", "-c", "exec cat /dev/zero > /dev/null"], timeout=0.05)

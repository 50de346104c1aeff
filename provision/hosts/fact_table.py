"""Every fact that a host is asked for: its name, and what its value looks like. Data.

``onhost/probe.py`` reads them, in one round trip; a test holds its answer to this table. Each fact
is known, absent (looked for, and not there), or unknown with the reason. A key within a value may
be None where the host has no such thing; what could not be read is said once, by an unknown fact.
Sizes are bytes unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Fact → shape of its value, and what it means.
FACTS: Mapping[str, str] = {
    # Who it is
    "hostname": "str: its own name",
    "hostname.addresses": '["127.0.1.1", …]: what its own name resolves to there',
    "user": "str: who we are there",
    "shell": 'str: that user\'s login shell, "/usr/bin/fish"',
    "home": "str: absolute",
    "home.id": '"device:inode" of the home folder: equal for two names of one machine and home',
    "home.place": "str: what ~/.zerofleet lies in: equal on hosts that see the very same folder",
    "machine_id": "str: /etc/machine-id; cloned images and containers may share one",
    "boot_id": "str: this boot of this kernel; containers on one machine share it",
    "namespaces": '{"net", "mnt", "pid": str}: tell containers on one kernel apart',
    "container": 'str: "docker", "podman", "kubernetes", "lxc" …; absent on a plain machine',
    # System
    "os": 'str: "Debian GNU/Linux 12 (bookworm)"',
    "kernel": 'str: "6.1.0-18-amd64"',
    "machine": 'str: "x86_64", "aarch64"',
    "glibc": 'str: "2.36"; absent on musl',
    "glibcxx": 'str: newest GLIBCXX of the libstdc++ that the loader takes, "3.4.30"',
    "clock": "float: seconds since 1970 by that host, when the probe began there",
    "clock.took": "float: seconds from then until the answer was written",
    "clock.offset": '{"seconds", "bound": float}: host minus controller, known to ± bound',
    "proxies": '{"https_proxy": "http://***@proxy:3128"}: of the session, passwords left out',
    # CPU and memory
    "cpu.model": "str",
    "cpu.level": 'str: "x86-64" … "x86-64-v4", as GCC\'s -march; absent on other machines',
    "cpu.flags": "[str]: sorted; Features on aarch64",
    "cpu.cores": "int: that this session may use (affinity)",
    "cpu.quota": "float: cores' worth of time that cgroups allow; absent where unlimited",
    "numa": '[{"node": 0, "cpus": "0-31", "memory": int}]',
    "numactl": "str: its path; absent where it is not on PATH",
    "memory": '{"total", "available", "swap_total", "swap_free": int}',
    "memory.limit": '{"limit", "used": int}: the tightest cgroup; absent where unlimited',
    "limits": '{"nofile", "memlock", "nproc": {"soft", "hard": int or None}}: None is unlimited',
    # Disks
    "disk": "as one of disks: where ~/.zerofleet is or would be",
    "disks": (
        '{path: {"on": nearest existing folder, "free", "total", "inodes_free", "inodes": int '
        '(inodes 0: not counted there), "writable", "read_only", "noexec": bool, "type": "ext4", '
        '"mount": "/", "device": int} or {"error": str}}: home, ~/.zerofleet, TMPDIR, paths asked'
    ),
    "shm": '{"total", "free": int}: /dev/shm',
    # Python and what is deployed
    "pythons": '[{"path", "version": str, "venv": bool}]: CPython on PATH',
    "environment": (
        '{"lock", "python", "torch", "torch_cuda", "deepspeed", "accelerator", "ops", "wheel", '
        '"wheel_sha256", "at", "path"}: what deploy proved, as recorded then'
    ),
    "environment.now": (
        '{"torch", "torch_cuda", "nccl", "deepspeed": str or None}: what its folder holds now'
    ),
    "environments": "[str]: complete ones, by lock",
    "store": '["sha256/name"]: pushed files',
    # GPUs
    "gpu.pci": '[{"slot": "0000:01:00.0", "id": "10de:2330"}]: NVIDIA GPUs on the bus',
    "gpu.driver": 'str: version of the loaded kernel module, "580.65.06"',
    "gpus": (
        '[{"index", "name", "compute_cap", "memory_total", "memory_used" (MiB), "uuid", '
        '"driver_version", "pci", "mig", "persistence", "ecc", "ecc_errors", "pcie_gen", '
        '"pcie_gen_max", "pcie_width", "pcie_width_max", "utilization": str or None}]: None where '
        "the GPU has no such thing, or the driver can't say (then gpu.unread says why)"
    ),
    "gpu.unread": "{key of gpus: reason}: what this driver's nvidia-smi can't be asked",
    "gpu.processes": '[{"gpu": uuid, "pid": int, "name", "user", "memory": MiB or None: str}]',
    "gpu.mig": '[{"gpu": index, "profile": "1g.10gb", "uuid": str}]; absent without MIG devices',
    "gpu.nvlink": '{index: ["26.562 GB/s" or "<inactive>"]}; absent without NVLink',
    "gpu.topology": '{"GPU0": {"GPU1": "NV18", "NIC0": "PXB"}}: nvidia-smi topo -m',
    "gpu.xid": '[{"pci", "xid": int, "text"}]: of this boot, oldest first; absent if none',
    "toolkit": 'str: CUDA toolkit of the nvcc on PATH or below CUDA_HOME, "13.0"',
    "toolkits": '[{"path", "version"}]: every toolkit found',
    # Network
    "interfaces": (
        '[{"name", "state": "up", "mtu": int, "speed": Mbit/s or None, "kind": "physical", '
        '"loopback", "bridge", "veth", "bond", "vlan", "tunnel", "infiniband", "virtual", '
        '"driver": "mlx5_core" or None, "addresses": ["10.0.0.1/24"]}]'
    ),
    "infiniband": '[{"device", "port": int, "state": "ACTIVE", "rate", "link": "InfiniBand"}]',
    "routes": (
        '{peer asked: {"address", "source": str, "interface": str or None, "mtu": int or None, '
        '"addresses": [str]} or {"error"}}: what the name means there, and the way to it'
    ),
    "ports.ephemeral": "[32768, 60999]: what outgoing and unnamed TCP ports are taken from",
    "firewall": (
        '{"policies": {"inet filter input": "drop"}, "rules": [those that drop or reject]}: '
        "absent where nothing filters; unknown without root"
    ),
    "firewall.tool": 'str: "firewalld", "ufw", "nft" or "iptables": what rules are made with there',
}

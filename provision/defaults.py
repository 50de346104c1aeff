"""Every setting there is, and what it is where nobody said so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.compat import TORCH
from provision.errors import ConfigError

#: Where this checkout is: locks/, trainer/ and zero_configs/ are read from here.
CHECKOUT = Path(__file__).resolve().parent.parent

#: Where a host's packages come from (--env-source).
WHEELHOUSE, INDEX, EXISTING = "wheelhouse", "index", "existing"

#: Every setting and its default. A default of None means: must be given where it is needed.
DEFAULTS: dict[str, Any] = {
    "hosts": "hosts.txt",
    "ssh_config": None,
    "accept_new": False,
    "connect_timeout": 10,
    "answer_timeout": 60,
    "wide": False,
    "fact": None,
    "workers": 32,
    "wheels": str(CHECKOUT / "wheels"),
    "wheel": None,
    "env_source": WHEELHOUSE,
    "env_python": None,
    "env_lock": None,
    "packages": None,
    "requirements": None,
    "upgrade": False,
    "glibc": None,
    "runs": "runs",
    "accelerator": None,
    "ops": None,
    "arch": None,
    "toolkit": "auto",
    "version": None,
    "source": None,
    "python": None,
    "jobs": None,
    "on": None,
    "with_source": None,
    "torch": TORCH,
    "cpu": "auto",
    "zero": 2,
    "deepspeed": None,
    "offload": "none",
    "method": None,
    "objective": None,
    "gpus": None,
    "nodes": None,
    "gpu_memory": None,
    "host_memory": None,
    "seq": None,
    "batch": None,
    "accum": None,
    "checkpointing": None,
    "attn": None,
    "precision": None,
    "lora_rank": None,
    "model": None,
    "data": None,
    "what": None,
    "rows": None,
    "result": None,
    "checkpoint": None,
    "dtype": None,
    "universal": False,
    "prompt": None,
    "max_new_tokens": 256,
    "limit": None,
    "output": None,
    "recipe": str(CHECKOUT / "recipes" / "sft.yaml"),
    "set": {},
    "master_addr": None,
    "master_port": 29500,
    "script": None,
    "code": ".",
    "include": None,
    "exclude": None,
    "nproc": None,
    "launcher": "torchrun",
    "env": {},
    "nnodes": None,
    "gpus_per_node": None,
    "print_commands": False,
    "locked": False,
    "deep": False,
    "wait": 0,
    "partial": False,
    "to": None,
    "keep_last": 1,
    "pushed": False,
    "with_runs": False,
    "check": False,
    "run": None,
    "follow": False,
    "rank": None,
    "host": None,
    "tail": None,
    "detach": False,
    "retries": 0,
    "resume": None,
    "grace": 15,
    "grace_after_failure": 3,
    "lost_after": 5,
    "start_within": 120,
    "numa_binding": "auto",
    "checkpoints": False,
    "lock_file": None,
    "allow_drift": None,
    "slurm": None,
    "shared": None,
    "time": "20:00:00",
    "partition": None,
    "account": None,
    "qos": None,
    "constraint": None,
    "job_name": None,
    "cpus_per_task": None,
    "mem": None,
    "exclusive": False,
    "sbatch": [],
    "lead": 120,
    "restarts": None,
    "no_preflight": False,
    "file": None,
    "submit": False,
}


def cache_home(environ: Mapping[str, str]) -> Path:
    """What this user's commands keep: ``$XDG_CACHE_HOME`` or ``~/.cache``, then ``zerofleet``.

    Source: https://specifications.freedesktop.org/basedir-spec/latest/ (a relative
    XDG_CACHE_HOME is to be ignored).
    """
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        if not environ.get("HOME"):
            raise ConfigError(
                "cache",
                found="neither XDG_CACHE_HOME nor HOME set",
                expected="a folder to keep builds and packages in",
                remedy="set XDG_CACHE_HOME to an absolute path",
            )
        base = Path(environ["HOME"]) / ".cache"
    return base / "zerofleet"

"""Every setting there is, by the name of its flag and its line in invoke.yaml.

The typed values of one command are settings.Settings; which command has which flag, and where a
flag means more to one command, is in commands/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.compat import TORCH
from provision.places import CHECKOUT
from provision.setting_kinds import (
    Setting,
    commas,
    number,
    optional,
    pairs,
    path,
    rate,
    repeated,
    switch,
    text,
    words,
)

#: Where a host's packages come from (--env-source).
WHEELHOUSE, INDEX, EXISTING = "wheelhouse", "index", "existing"

SETTINGS: Mapping[str, Setting] = {
    # Hosts, and how they are reached.
    "hosts": path(
        help="hosts file, a line for each: [user@]host[:port] [slots=N]", default="hosts.txt"
    ),
    "ssh_config": path(help="an OpenSSH client configuration to use instead of ~/.ssh/config"),
    "accept_new": switch(
        help="accept, and record, the keys of hosts that known_hosts does not list yet"
    ),
    "connect_timeout": number(default=10, least=1),
    "answer_timeout": number(help="seconds that a host may take to answer", default=60, least=1),
    "workers": number(default=32, least=1),
    "wide": switch(help="more columns: clock, kernel, network, toolkit, firewall …"),
    "fact": text(help="only this fact, as in gpu.driver, with the hosts grouped by its value"),
    "include": text(help="only these hosts and GPUs, as DeepSpeed writes them: node1@node2:0,2"),
    "exclude": text(help="all but these hosts and GPUs: node3@node2:1"),
    # A build.
    "accelerator": text(help="cuda or cpu"),
    "ops": commas(
        help="ops to compile, by DeepSpeed's names, or all (default: for cuda "
        "cpu_adam,fused_adam,utils; for cpu cpu_adam,shm_comm; NVMe offload is async_io, not utils)"
    ),
    "arch": commas(
        help="GPUs to compile for, by name or compute capability: A100,H100 or '8.0;9.0+PTX'"
    ),
    "toolkit": text(
        help="where nvcc comes from: system, pypi (packages), or auto: CUDA_HOME where it fits "
        "torch, else packages",
        default="auto",
    ),
    "cpu": text(
        help="CPU level to compile for: x86-64-v2, -v3, -v4, native (this machine's), or auto: the "
        "lowest of --hosts, x86-64-v3 without them",
        default="auto",
    ),
    "torch": text(
        help="torch release to build against; a wheel fits one release only", default=TORCH
    ),
    "version": text(help="DeepSpeed release to build (default: the newest known)"),
    "source": text(help="a DeepSpeed source folder or archive, instead of a release"),
    "with_source": text(
        help="source folders of other Python projects, comma-separated, to build wheels of"
    ),
    "python": text(
        help="work on this machine, with this Python, which has torch, instead of on a host"
    ),
    "jobs": text(help="compilers at once (default: as many as cores and memory allow)"),
    "on": text(help="[user@]host[:port] to build on, over SSH; the wheel is copied here"),
    # Wheels, and the environment around them.
    "wheels": path(
        help="folder of built wheels (default: wheels/ in this checkout)",
        default=str(CHECKOUT / "wheels"),
    ),
    "wheel": text(help="file name of the wheel, where the folder of wheels holds several"),
    "env_source": text(
        help="where packages come from: wheelhouse (downloaded here, copied to the hosts), "
        "index (each host's pip downloads them), or existing (only the wheel is added, to a Python "
        "of yours on each host)",
        default=WHEELHOUSE,
    ),
    "env_python": text(
        help="with --env-source existing: path of your Python on the hosts (python=PATH on a "
        "host's line in the hosts file takes precedence)"
    ),
    "env_lock": path(
        help="lock of the environment's packages (default: zerofleet.env.lock beside the hosts "
        "file if it exists, else locks/train.lock in this checkout)"
    ),
    "packages": words(help="packages to add to the environment, as in 'einops>=0.8 bitsandbytes'"),
    "requirements": path(help="a file of packages to add, one a line"),
    "upgrade": switch(
        help="take the newest versions, instead of keeping those of the lock where possible"
    ),
    "glibc": commas(help="the oldest glibc of the hosts, as in 2.28: no host is asked then"),
    # A deploy, and what it left.
    "wait": number(
        help="seconds to wait while another command works on a host", default=0, least=0
    ),
    "partial": switch(help="go on without the hosts that fail"),
    "anew": switch(
        help="remove the environment where it is there, and make it again: a damaged one is mended"
    ),
    "limit": rate(
        help="most bytes a second that any machine sends, as in 50MB/s (default: no limit)"
    ),
    "to": text(help="the environment to switch to: its name, or how its name begins"),
    "keep_last": number(
        help="environments to keep for rollback, besides the current one", default=1, least=0
    ),
    "pushed": switch(help="also remove pushed models and data that no run uses"),
    "with_runs": switch(help="also remove the folders of runs: logs, and checkpoints left there"),
    "check": switch(
        help="also hash every file of every environment, and name those that have changed"
    ),
    "what": path(help="file or folder of this machine: a model or data", position=True),
    # The drift lock.
    "locked": switch(help="require a drift lock (one that exists is enforced in any case)"),
    "lock_file": path(help="the drift lock (default: zerofleet.lock.json beside the hosts file)"),
    "allow_drift": commas(
        help="facts that may differ from the drift lock, as in gpu.driver,kernel"
    ),
    # What a run is.
    "model": text(
        help="model folder on the hosts (from / or ~/), or the name of a cached hub model"
    ),
    "data": text(help="file or folder of rows on the hosts; commas between several"),
    "output": text(
        help="folder on the hosts for checkpoints and adapter (default: in the run's own folder)"
    ),
    "zero": number(help="ZeRO stage: 1, 2, 3, or auto: the fastest that fits the hosts", default=2),
    "offload": text(
        help="what to keep in host memory: none, optimizer, or all (stage 3)", default="none"
    ),
    "deepspeed": path(
        help="a DeepSpeed configuration file of your own, instead of --zero and --offload"
    ),
    "recipe": path(
        help="trainer flags: sft, orpo or pretrain of recipes/, or a YAML file", default="sft"
    ),
    "set": pairs(
        help="a trainer flag, over the recipe's, as in --set max_steps=50; may be repeated"
    ),
    "script": path(help="your own training script instead of our trainer; its arguments follow --"),
    "code": path(
        help="folder that is sent along with --script, as git lists it (default: the current one)",
        default=".",
    ),
    "env": pairs(help="NAME=VALUE for the ranks, or the NAME of a variable here; may be repeated"),
    # How its ranks start.
    "master_addr": text(
        help="address at which other hosts reach the first (default: its SSH address)"
    ),
    "master_port": number(
        help="TCP port on the first host at which all ranks meet",
        default=29500,
        least=1,
        most=65535,
    ),
    "nproc": number(help="ranks on each host (default: its slots)", least=1),
    "launcher": text(
        help="what starts the ranks of a node: torchrun or deepspeed", default="torchrun"
    ),
    "nnodes": number(help="number of nodes (default 1)"),
    "gpus_per_node": number(help="ranks on each node (default 4)"),
    "numa_binding": text(
        help="CPUs of a rank: auto (its GPU's NUMA node, on hosts that have several), none, "
        "or as in torchrun: node, socket, exclusive, core-complex",
        default="auto",
    ),
    "deep": switch(help="also run a real all-reduce on all hosts, and measure every pair of them"),
    "print_commands": switch(
        help="print each node's commands, to paste there without ZeroFleet; start nothing"
    ),
    # How it goes on and ends.
    "detach": switch(help="start the run, say how to attach to it, and leave it running"),
    "retries": number(help="restarts after a failure, from the last whole checkpoint", default=0),
    "retry_within": number(
        help="seconds that --retries waits for lost hosts to come back", default=900
    ),
    "resume": text(help="resume this run from its newest whole checkpoint, as invoke resume does"),
    "grace": number(
        help="seconds that a stop gives: our trainers to begin a save, a script until SIGKILL",
        default=15,
        least=1,
    ),
    "grace_after_failure": number(
        help="the same after a failure, when nothing can be saved", default=3, least=1
    ),
    # A supervisor asks one that is silent after 2 s (onhost/heartbeat.py): sooner, none is lost.
    "lost_after": number(
        help="seconds of silence after which a host counts as lost, at least 3", default=5, least=3
    ),
    "start_within": number(
        help="seconds for all nodes to report after the start", default=120, least=10
    ),
    # Runs that were started.
    "runs": path(help="local folder that runs are collected to", default="runs"),
    "run": text(
        help="a run's id as `invoke runs` lists it, or enough of it to be unique, or last",
        position=True,
    ),
    "follow": switch(help="keep showing lines as they come, until the run ends", short="f"),
    "rank": number(help="only the lines of this rank, by its global number", least=0),
    "host": text(help="only the lines of this host"),
    "tail": number(help="only this many lines of each host, the last", least=0),
    "checkpoints": switch(help="copy checkpoints too, with optimizer states"),
    # A Slurm job.
    "slurm": optional(
        help="work on the nodes of a job, by its number, or on nodes of a partition (default: "
        "Slurm's), instead of hosts over SSH"
    ),
    "shared": path(
        help="folder that all nodes share, used instead of HOME there (default: your HOME)"
    ),
    "time": text(help="time limit: minutes, HH:MM:SS or D-HH:MM:SS", default="20:00:00"),
    "partition": text(help="partition (default: Slurm's)"),
    "account": text(help="account that the job is charged to (default: Slurm's)"),
    "qos": text(help="quality of service (default: Slurm's)"),
    "constraint": text(help="features that nodes must have, as in 'a100&ib'"),
    "job_name": text(help="name of the job (default: zerofleet-OBJECTIVE)"),
    "cpus_per_task": text(help="CPUs on each node; all of them with --exclusive (default 10)"),
    "mem": text(help="memory on each node, as in 200G; 0 is all of it (default: Slurm's)"),
    "exclusive": switch(help="share the nodes with no other job"),
    "sbatch": repeated(help="an option of sbatch, as in --sbatch=--reservation=x; may be repeated"),
    "lead": number(
        help="seconds before the time limit at which the run is told to save", default=120
    ),
    "restarts": number(
        help="restarts of the job after its limit or a lost node (default 10; --script: 0)"
    ),
    "no_preflight": switch(help="start the ranks without checking the nodes first"),
    "file": path(
        help="write the job file here, and make the run's folder: then `sbatch FILE` submits it"
    ),
    "submit": switch(help="make the run's folder and submit the job"),
    # Memory of a run.
    "method": text(help="what is trained: full, lora or qlora (default: the recipe's)"),
    "objective": text(help="sft, orpo or pretrain (default: the recipe's)"),
    "gpus": text(help="GPUs on each node (default 8)"),
    "nodes": text(help="number of nodes (default 2)"),
    "gpu_memory": text(help="GB (10^9 bytes) on each of these GPUs, as in 80"),
    "host_memory": text(help="GB (10^9 bytes) on each of these hosts"),
    "seq": text(help="tokens in a row (default: the recipe's)"),
    "batch": text(help="rows per GPU in a micro-batch (default: the recipe's)"),
    "accum": text(help="micro-batches in a step (default: the recipe's)"),
    "checkpointing": text(
        help="recompute activations in backward: true or false (default: the recipe's)"
    ),
    "attn": text(help="attention: sdpa, eager, flash_attention_2 or _3 (default: the recipe's)"),
    "precision": text(help="bf16, fp16 or fp32 (default: the recipe's)"),
    "lora_rank": text(help="rank of the adapter (default: the recipe's)"),
    # What goes into a run, and what came out.
    "rows": text(
        help="file or folder of rows on the first host (--python: here); commas between several",
        position=True,
    ),
    "result": text(
        help="a run, or the folder of its output on the first host (with --python: here)",
        position=True,
    ),
    "checkpoint": text(
        help="RUN or RUN/checkpoint-STEP, or a folder with every rank's shards", position=True
    ),
    "dtype": text(
        help="of exported weights: bf16, fp16, fp32 (default: the model's own; fp32 for adapters)"
    ),
    "universal": switch(
        help="make a checkpoint that any number of ranks can resume from, not weights"
    ),
    "prompt": text(help="ask only this (default: lines as you type them, as one conversation)"),
    "max_new_tokens": number(help="most tokens in an answer", default=256, least=1),
}
#: What each is where nobody said so. None means: must be given where it is needed.
DEFAULTS: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()}

"""The commands' flags: what each means, which go together, and the task that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from invoke.tasks import Task, task

from provision import show
from provision.errors import ConfigError
from provision.settings import Settings, read_settings

#: A command's body: what it answers through, and its settings.
Body = Callable[[show.Answer, Settings], None]

#: Flag → what ``--help`` says of it.
HELP = {
    "hosts": "hosts file (default hosts.txt; builds: none): [user@]host[:port] [slots=N] lines",
    "ssh_config": "an OpenSSH client configuration in place of ~/.ssh/config",
    "accept_new": "accept, and record, keys of hosts that known_hosts does not list yet",
    "wide": "more columns: clock, kernel, network, toolkit, firewall …",
    "fact": "one fact alone, as in --fact gpu.driver, hosts grouped by its value",
    "answer_timeout": "seconds that a host may take to tell what it is (default 60)",
    "accelerator": "cuda (which --arch implies) or cpu; never guessed from this machine",
    "ops": "ops to compile, by DeepSpeed's names, or all (default for cuda: "
    "cpu_adam,fused_adam,utils; cpu: cpu_adam,shm_comm; NVMe offload is async_io, not utils)",
    "arch": "GPUs to compile for: '8.0;9.0+PTX', or names: A100,H100",
    "toolkit": "nvcc from: auto (CUDA_HOME where it fits torch, else packages), system, pypi",
    "cpu": "x86-64-v2, -v3, -v4, native (this machine's level), or auto: the lowest of --hosts, "
    "else x86-64-v3 (the default)",
    "torch": "torch release to build against; a wheel fits one release only",
    "version": "DeepSpeed release to build",
    "source": "a DeepSpeed source folder or archive in place of a release",
    "with_source": "source folders of other Python projects, comma-separated: wheels of them, too",
    "python": "builds: interpreter whose version the hosts run (default: this one); else: a Python "
    "of this machine that has torch, in place of a host's",
    "on": "[user@]host[:port] to build on, over SSH; the wheel comes here",
    "jobs": "compilers at once (default: as many as cores and memory allow)",
    "path": "the .whl file of a DeepSpeed wheel, whoever built it",
    "what": "file or folder of this machine: a model, data",
    "rows": "file or folder of rows on the first host or (--python) here; several with commas",
    "result": "a run, or the folder of its output on the first host or (--python) here",
    "checkpoint": "RUN or RUN/checkpoint-STEP; or a folder that has every rank's shards",
    "universal": "not weights, but a checkpoint that any number of ranks can go on from",
    "dtype": "of exported weights: bf16, fp16 or fp32 (default: the model's own; adapters fp32)",
    "prompt": "ask this one thing (default: lines typed, each with what was said before in mind)",
    "max_new_tokens": "tokens that an answer may have (default 256)",
    "limit": "bytes a second that no machine is to send more of, as in 50MB/s (default: no limit)",
    "wheel": "file name of the wheel, where the folder of wheels holds several",
    "env_source": "wheelhouse (default: downloaded here, pushed, hosts need no index), index "
    "(each host's own pip downloads), or existing (only the wheel, over a Python of yours there)",
    "env_python": "path of that Python on the hosts (python=PATH on a host's line goes before it)",
    "env_lock": "the packages of the hosts' environment (default: zerofleet.env.lock beside the "
    "hosts file, where there is one; else locks/train.lock of this checkout)",
    "packages": "what the environment is to have besides, as in 'einops>=0.8 bitsandbytes'",
    "requirements": "a file of such packages, one a line",
    "upgrade": "take the newest versions; else those of the lock stay where they can",
    "glibc": "the hosts' oldest glibc, as in 2.28: lock for it, and ask no host",
    "wheels": "folder of built wheels (default: wheels/ of this checkout)",
    "model": "model folder on the hosts (absolute, or from ~/), or the name of a cached hub model",
    "data": "file or folder of rows on the hosts; several separated by commas",
    "output": "folder on the hosts for checkpoints and adapter (default: in the run's own folder); "
    "merge, export: folder of this machine that the result comes to",
    "zero": "ZeRO stage: 1, 2, 3 (default 2), or auto: the fastest that fits the hosts",
    "deepspeed": "a DeepSpeed configuration of your own, in place of --zero and --offload",
    "offload": "what is kept in host memory: none (default), optimizer, or all (stage 3)",
    "recipe": "YAML file of trainer flags, or sft (default), orpo, pretrain: those of recipes/",
    "set": "a trainer flag over the recipe's, as in --set max_steps=50; may be given several times",
    "master_addr": "address of the first host as the others reach it (default: its SSH address)",
    "master_port": "TCP port on the first host that all ranks meet at (default 29500)",
    "script": "your own training script, in place of ours; its arguments follow --",
    "code": "folder that travels with --script (default: the current one), as git sees it",
    "include": "hosts and GPUs to take, as DeepSpeed writes them: node1@node2:0,2",
    "exclude": "hosts and GPUs to leave out: node3@node2:1",
    "nproc": "ranks of each host (default: its slots)",
    "launcher": "what starts the ranks of a node: torchrun (default) or deepspeed",
    "nnodes": "how many nodes take part (default 1); by position, too",
    "gpus_per_node": "ranks of this node (default 4); by position, too",
    "env": "NAME=VALUE for the ranks, or a NAME of this shell; may be given several times",
    "print_commands": "print each node's commands, to paste there without ZeroFleet; start nothing",
    "runs": "local folder that results are collected to (default runs/)",
    "run": "a run's id, as `invoke runs` lists it, or as much of it as names one; or: last",
    "follow": "go on showing lines as they come, until the run ends",
    "rank": "lines of one rank alone, by its global number",
    "host": "lines of one host alone",
    "tail": "only the last so many lines of each host",
    "detach": "start the run, say how to attach to it, and leave it running",
    "retries": "after a failure, start again from the last whole checkpoint, up to so many times",
    "resume": "go on with this run, from its newest whole checkpoint (as invoke resume does)",
    "grace": "seconds between SIGTERM and SIGKILL of a stop that was asked for (default 15)",
    "grace_after_failure": "the same after a failure, when no checkpoint can be saved (default 3)",
    "lost_after": "seconds of silence after which a host counts as lost (default 5, at least 3)",
    "start_within": "seconds in which every node must be heard of after the start (default 120)",
    "numa_binding": "CPUs of a rank: auto (its GPU's NUMA node, where a host has several), none, "
    "or as torchrun has it: node, socket, exclusive, core-complex",
    "checkpoints": "bring checkpoints too, optimizer states and all",
    "wait": "seconds to wait where another command is at work on a host (default 0), and for nodes "
    "of Slurm (default: as long as it takes)",
    "partial": "leave out hosts that fail, and go on with the others",
    "to": "the environment to go back to: its name, or how that begins",
    "keep_last": "environments to keep beside the one in use, for rollback (default 1)",
    "pushed": "also remove models and data that were pushed and that no run uses",
    "with_runs": "also remove the folders of runs: logs, and checkpoints left there",
    "check": "also hash every file of every environment there, and name what is not as installed",
    "deep": "also run a real all-reduce on all hosts, and measure every pair of them",
    "locked": "refuse to go on without a drift lock (one that is there is held to in any case)",
    "lock_file": "the drift lock (default zerofleet.lock.json beside the hosts file)",
    "allow_drift": "what may differ from the drift lock, as in gpu.driver,kernel",
    "method": "what trains: full, lora or qlora (default: as the recipe has it)",
    "objective": "sft (default), orpo (two rows at a time) or pretrain",
    "gpus": "GPUs of each host that you do not have yet, or of each node of a job (default 8)",
    "nodes": "how many such hosts (default 1), or nodes of a job (default 2)",
    "gpu_memory": "GB (10^9 bytes) of each of these GPUs, as in 80",
    "host_memory": "GB of each of these hosts",
    "seq": "tokens of a row (default: as the recipe has it)",
    "batch": "rows that a GPU takes at once",
    "accum": "micro-batches in a step",
    "checkpointing": "recompute activations in backward: true or false",
    "attn": "attention implementation: sdpa, eager, flash_attention_2 or _3",
    "precision": "bf16, fp16 or fp32",
    "lora_rank": "rank of the adapter",
    "folder": "the demo's folder (default zerofleet-demo/ in the checkout)",
    "keep": "leave the demo's hosts up until Ctrl-C",
    "slurm": "train: as a Slurm job; hosts: the nodes of a Slurm job's number, or of a partition; "
    "deploy, parity, envs, rollback: those nodes in place of hosts over SSH",
    "shared": "folder that every node sees; takes the part of HOME there (default: your HOME)",
    "time": "time limit of the job: minutes, HH:MM:SS or D-HH:MM:SS (default 20:00:00; for "
    "nodes of other commands 1:00:00)",
    "partition": "Slurm's partition (default: Slurm's)",
    "account": "account that the job is charged to (default: Slurm's)",
    "qos": "quality of service (default: Slurm's)",
    "constraint": "features that nodes must have, as in a100&ib",
    "job_name": "name of the job (default zerofleet-OBJECTIVE)",
    "cpus_per_task": "CPUs of each node (default 10; with --exclusive all)",
    "mem": "memory of each node, as in 200G; 0 is all of it (default: Slurm's)",
    "exclusive": "share the nodes with no other job",
    "sbatch": "an option of sbatch, as in --sbatch=--reservation=x; may be given several times",
    "lead": "seconds before the time limit at which the run is asked to save (default 120)",
    "restarts": "how often the job goes on after its limit or a lost node (default 10; scripts 0)",
    "no_preflight": "start the ranks without looking at the nodes first",
    "file": "write the job file there, and make the run's folder: sbatch FILE then submits it",
    "submit": "make the run's folder and submit the job",
    "dry_run": "read everything, print the plan, change nothing",
    "json": "one JSON object on stdout, everything else on stderr",
}
BUILD = (
    "accelerator",
    "ops",
    "arch",
    "toolkit",
    "cpu",
    "torch",
    "version",
    "source",
    "python",
    "jobs",
)
FLEET = ("hosts", "ssh_config", "accept_new", "answer_timeout")
WHEEL = ("wheel", "wheels", "env_source", "env_python", "env_lock")
TRAIN = ("zero", "offload", "deepspeed", "recipe", "set")
MACHINES = ("gpus", "nodes", "gpu_memory", "host_memory")
SHAPE = ("method", "objective", "seq", "batch", "accum", "checkpointing", "attn", "precision")
MEMORY = (*MACHINES, *SHAPE, "lora_rank")
LOCK = ("locked", "lock_file", "allow_drift")
RUN = ("model", "data", "output", "master_addr", "master_port")
SCRIPT = ("script", "include", "exclude", "nproc")
SLURM = (
    "shared",
    "nodes",
    "gpus",
    "time",
    "partition",
    "account",
    "qos",
    "constraint",
    "job_name",
    "cpus_per_task",
    "mem",
    "exclusive",
    "sbatch",
    "lead",
    "restarts",
    "no_preflight",
)
#: Nodes for a command that otherwise asks hosts over SSH.
NODES = ("slurm", "shared", "nodes", "gpus", "time", "account", "qos", "constraint",
         "cpus_per_task", "mem", "exclusive", "sbatch")  # fmt: skip
LAUNCH = ("code", "launcher", "env", "numa_binding", "print_commands", "detach", "retries")
LIMITS = ("grace", "grace_after_failure", "lost_after", "start_within")
_SWITCHES = (
    "universal",
    "accept_new",
    "check",
    "deep",
    "locked",
    "wide",
    "partial",
    "pushed",
    "upgrade",
    "with_runs",
    "follow",
    "detach",
    "checkpoints",
    "print_commands",
    "exclusive",
    "no_preflight",
    "submit",
    "dry_run",
    "json",
)
#: Flags that may stand alone or have a value, by command.
_OPTIONAL = ("slurm",)
_LISTS = ("set", "env", "sbatch")
#: Flags that may be given by position: they have to be given.
_POSITIONAL = ("run", "what", "rows", "result", "checkpoint")
#: Flags with one letter too: those that everybody's fingers know.
_SHORT = {"follow": "f"}


class Command(Task[Any]):
    """An Invoke task, with the few short flags of _SHORT."""

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """The options of one flag."""
        found: dict[str, Any] = super().arg_opts(name, default, taken_names)
        if name in _SHORT:
            found["names"] = (*found["names"], _SHORT[name])
        return found


def command(*flags: str, klass: type[Command] = Command) -> Callable[[Body], Any]:
    """A command with these flags and --json; its body gets an Answer and the Settings."""

    def decorate(body: Body) -> Any:
        def run(c: Any, **given: Any) -> None:
            json, dry_run = given.pop("json"), given.pop("dry_run", False)
            with show.answer(json=json, dry_run=dry_run) as out:
                _require_values(given, body.__name__.replace("_", "-"))
                settings = read_settings(c.config.zerofleet, **given)
                body(out, _with_own_config(settings) if settings.deepspeed else settings)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        defaults = {
            **dict.fromkeys(_SWITCHES, False),
            **dict.fromkeys(_POSITIONAL, inspect.Parameter.empty),
        }
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter("c", kind)]
            + [inspect.Parameter(f, kind, default=defaults.get(f)) for f in (*flags, "json")]
        )
        run.__doc__, name = body.__doc__, body.__name__.replace("_", "-")
        more = {
            "iterable": [flag for flag in flags if flag in _LISTS],
            "optional": [flag for flag in flags if flag in _OPTIONAL],
            "help": helps_of(*flags, "json"),
        }
        return task(run, klass=klass, name=name, auto_shortflags=False, **more)

    return decorate


def _with_own_config(settings: Settings) -> Settings:
    from provision.launch.own_config import read_into

    return read_into(settings)


def _require_values(given: Mapping[str, Any], name: str) -> None:
    """ConfigError for a flag where a position should be: Invoke takes ``--help`` for its value."""
    for flag in _POSITIONAL:
        if str(given.get(flag) or "").startswith("-"):
            raise ConfigError(
                flag.upper(),
                found=given[flag],
                expected=HELP[flag],
                remedy=f"invoke --help {name} says more",
            )


def helps_of(*flags: str) -> dict[str, str]:
    """What ``--help`` says of these flags."""
    return {flag: HELP[flag] for flag in flags}

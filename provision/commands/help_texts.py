"""What ``--help`` says of a flag where a command means something else than the setting table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provision.setting_table import SETTINGS

#: Builds.
FOR_BUILDS: dict[str, str] = {
    "hosts": "build for the GPUs, CPUs and glibc of the hosts in this file (default: none)",
    "accelerator": "cuda (implied by --arch) or cpu; never guessed from this machine",
    "python": "interpreter whose version the hosts run (default: this one)",
    "wheels": "folder that the wheel goes to (default: wheels/ in this checkout)",
}
#: The tools of a build that is not begun.
FOR_TOOLCHAIN: dict[str, str] = {
    **FOR_BUILDS,
    "cpu": "CPU level to compile for: x86-64-v2, -v3, -v4, native (this machine's), or auto: "
    "x86-64-v3 (default auto)",
}
#: A Slurm job: what runs on its nodes.
FOR_JOBS: dict[str, str] = {
    "python": "Python on the nodes that has torch and DeepSpeed (default: the environment's)",
    "accelerator": "what the torch of --python is for: cuda or cpu",
    "zero": "ZeRO stage: 1, 2 or 3 (default 2)",
    "model": "model folder that the nodes see, or the name of a cached hub model",
    "data": "file or folder of rows that the nodes see; commas between several",
    "output": "folder that the nodes share, for the result (default: in the run's own folder)",
    "master_port": "TCP port on the first node at which all ranks meet (default: by job number)",
    "dry_run": "have Slurm check the job; make and submit nothing",
}
#: Nodes of Slurm, for minutes, in place of hosts over SSH.
FOR_NODES: dict[str, str] = {
    "gpus": "GPUs on each node, for a wheel with GPU code (default 1)",
    "time": "time limit: minutes, HH:MM:SS or D-HH:MM:SS (default 1:00:00)",
    "cpus_per_task": "CPUs on each node (default: Slurm's)",
}
#: Waiting for locks on hosts, or for nodes.
FOR_WAITING: dict[str, str] = {
    "wait": "seconds to wait while another command works on a host (default 0); with --slurm: for "
    "the nodes (default: as long as it takes)",
}
#: A model or data that hosts may have already.
FOR_PUSH: dict[str, str] = {
    "check": "also hash the files that hosts have already, and send again those that have rotted",
}
#: Runs, whoever started them.
FOR_RUNS: dict[str, str] = {
    "shared": "folder that the nodes of Slurm jobs share, with their runs (default: your HOME)",
}
#: A run that goes on: what it had, where nothing else is given.
FOR_RESUME: dict[str, str] = {
    **FOR_RUNS,
    "env": "NAME=VALUE for the ranks, over what the run had, or the NAME of a variable here; may "
    "be repeated",
    "master_port": "TCP port on the first host at which all ranks meet (default: the run's)",
    "grace": "seconds that a stop gives: our trainers to begin a save, a script until "
    "SIGKILL (default: the run's)",
    "grace_after_failure": "the same after a failure, when nothing can be saved (default: the "
    "run's)",
    "lost_after": "seconds of silence after which a host counts as lost (default: the run's)",
    "start_within": "seconds for all nodes to report after the start (default: the run's)",
}
#: Memory of a run, on hosts that are there or not.
FOR_MEMORY: dict[str, str] = {
    "hosts": "hosts file: plan for these hosts, unless --gpus is given (default hosts.txt)",
    "gpus": "plan for hosts that you don't have yet, with this many GPUs each",
    "nodes": "number of these hosts (default 1)",
    "accelerator": "cuda or cpu: what the ranks compute on (default cuda)",
}
#: One node, started by who stands on it.
FOR_NODE: dict[str, str] = {
    "zero": "ZeRO stage: 1, 2 or 3 (default 2)",
    "master_addr": "address at which the other nodes reach node 0 (default localhost)",
    "master_port": "TCP port on node 0 at which all ranks meet (default 29500)",
    "objective": "sft, orpo or pretrain (default sft)",
    "model": "model folder on this node, or the name of a cached hub model",
    "data": "file or folder of rows on this node; commas between several",
    "output": "folder on this node for checkpoints and adapter (default: in the run's own folder)",
    "python": "Python on this node that has torch and DeepSpeed (default: the environment's)",
    "accelerator": "what the torch of --python is for: cuda or cpu",
    "start_within": "seconds for all nodes to be started by hand (default 300)",
}


def with_slurm(flags: Iterable[str], over: Mapping[str, str]) -> dict[str, str]:
    """What is said of flags that a command only takes with ``--slurm``."""
    return {flag: f"with --slurm: {over.get(flag, SETTINGS[flag].described)}" for flag in flags}

"""RunSpec → what each node runs: its command in full, its environment, where its results are."""

from __future__ import annotations

import base64
import json
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.launch.spec import RunHost, RunSpec
from provision.preflight.gpus import chosen_gpus
from provision.preflight.nics import interface_environ

#: Where runs are on a host, below HOME.
RUNS = ".zerofleet/runs"
#: torchrun gives its ranks so much longer than the supervisor does, which alone decides.
_MORE = 5.0


@dataclass(frozen=True, kw_only=True)
class NodeLaunch:
    """What one host runs. ``first_rank`` is the global rank of its local rank 0.

    ``environ`` is what may be shown, ``secrets`` what may not. ``output`` is the folder there that
    results are expected in.
    """

    host: str
    node_rank: int
    nnodes: int
    nproc_per_node: int
    first_rank: int
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    run_dir: str
    output: str
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def command(self) -> str:
        """The command for a shell on the host; secrets are to be exported there before."""
        pairs = [f"{key}={value}" for key, value in self.environ.items()]
        env = shlex.join(["env", *pairs, *self.argv])
        return f"cd {shlex.quote(f'{self.run_dir}/code')} && {env}"

    def as_json(self) -> dict[str, object]:
        """The node's launch, its command included."""
        return {
            "host": self.host,
            "node_rank": self.node_rank,
            "nnodes": self.nnodes,
            "nproc_per_node": self.nproc_per_node,
            "first_rank": self.first_rank,
            "argv": list(self.argv),
            "environ": dict(self.environ),
            "secrets": sorted(self.secrets),
            "run_dir": self.run_dir,
            "output": self.output,
            "command": self.command,
        }


def trainer_argv(flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Flags as transformers' HfArgumentParser reads them; None leaves a flag at its default."""
    argv: list[str] = []
    for name, value in flags.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        words = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
        # argparse takes a word that starts with a dash for a flag, unless it is joined to its own.
        joined = len(words) == 1 and words[0].startswith("-")
        argv += [f"--{name}={words[0]}"] if joined else [f"--{name}", *words]
    return tuple(argv)


def _on_host(path: str, home: str) -> str:
    """``~/`` as the host's own HOME, also after a comma: nothing expands it inside an argv."""
    return re.sub(r"(^|,\s*)~/", lambda match: f"{match[1]}{home}/", path)


def output_folder(spec: RunSpec, host: RunHost, run_dir: str) -> str:
    """Where a host's results are, absolute there."""
    return _on_host(spec.output, host.home) if spec.output else f"{run_dir}/output"


def program_argv(spec: RunSpec, host: RunHost, output: str, code: str) -> tuple[str, ...]:
    """What every rank runs, as torchrun takes it. ``code``: the folder that holds the code."""
    if spec.script:
        return (spec.script.path, *spec.script.args)
    flags = {
        "model_name_or_path": _on_host(spec.model, host.home),
        "train_file_dir": _on_host(spec.data, host.home),
        "output_dir": output,
        "deepspeed": posixpath.join(code, "zero_configs", spec.zero_config),
        **{k: _on_host(v, host.home) if isinstance(v, str) else v for k, v in spec.flags.items()},
    }
    return ("-m", f"trainer.{spec.objective}", *trainer_argv(flags))


def meeting(spec: RunSpec, host: RunHost, node_rank: int) -> dict[str, str]:
    """How the node finds the others: torchrun's options and their values.

    Its static rendezvous, the default: the plan knows every node's rank, so no host has to be found
    by its own name (https://github.com/pytorch/pytorch/issues/73656).
    """
    return {
        "--nnodes": str(len(spec.hosts)),
        "--node-rank": str(node_rank),
        "--nproc-per-node": str(host.nproc_per_node),
        "--master-addr": spec.master_addr,
        "--master-port": str(spec.master_port),
    }


def rendezvous(spec: RunSpec, host: RunHost, node_rank: int) -> tuple[str, ...]:
    """The same as words of a command."""
    return tuple(word for pair in meeting(spec, host, node_rank).items() for word in pair)


def _argv(spec: RunSpec, host: RunHost, node_rank: int, run_dir: str) -> tuple[str, ...]:
    python = _on_host(spec.python, host.home)
    program = program_argv(spec, host, output_folder(spec, host, run_dir), f"{run_dir}/code")
    if spec.launcher == "deepspeed":
        launcher = deepspeed_argv(spec, node_rank)
        return (python, "-m", *launcher, *(program if spec.script else ("--module", *program[1:])))
    # --tee: both streams of every rank, to its files and to torchrun's own output
    logs = ("--log-dir", f"{run_dir}/ranks", "--tee", "3")
    meet = rendezvous(spec, host, node_rank)
    return (python, "-m", "torch.distributed.run", *meet, *bound(host), *logs, *program)


def bound(host: RunHost) -> tuple[str, ...]:
    """How torchrun is told to bind a host's ranks to CPUs; nothing where it is not to."""
    mode = host.numa.mode if host.numa else None
    return ("--numa-binding", mode) if mode else ()


def deepspeed_argv(spec: RunSpec, node_rank: int) -> tuple[str, ...]:
    """DeepSpeed's launcher of one node, as its own runner starts it on each
    (deepspeed/launcher/multinode_runner.py), without the hostfile and pdsh that this replaces.
    """
    world = {h.name: list(h.devices or range(h.nproc_per_node)) for h in spec.hosts}
    return (
        "deepspeed.launcher.launch",
        f"--world_info={base64.urlsafe_b64encode(json.dumps(world).encode()).decode()}",
        f"--node_rank={node_rank}",
        f"--master_addr={spec.master_addr}",
        f"--master_port={spec.master_port}",
        "--no_local_rank",
    )


def shared_environ(spec: RunSpec, host: RunHost) -> dict[str, str]:
    """What the ranks of a host get whoever starts them: facts of the host, then what the user set.

    Without an interface, gloo takes the address of the host's own name, often 127.0.1.1.
    """
    environ = {"DS_ACCELERATOR": spec.accelerator, "TOKENIZERS_PARALLELISM": "false"}
    if host.socket_interface:
        environ |= interface_environ(host.socket_interface)
    if host.cores:
        environ["OMP_NUM_THREADS"] = str(max(1, host.cores // host.nproc_per_node))
    if host.devices is not None and spec.accelerator == "cuda":
        environ |= chosen_gpus(host.devices)
    if spec.offline:
        environ["HF_HUB_OFFLINE"] = "1"
    return {**environ, **spec.environ.plain}


def node_environ(spec: RunSpec, host: RunHost, node_rank: int) -> dict[str, str]:
    """The same, and the names that LLaMA-Factory's launcher reads, for scripts written for it:
    https://llamafactory.readthedocs.io/en/latest/advanced/distributed.html
    """
    return {
        **shared_environ(spec, host),
        "NODE_RANK": str(node_rank),
        "NNODES": str(len(spec.hosts)),
        "NPROC_PER_NODE": str(host.nproc_per_node),
        "MASTER_ADDR": spec.master_addr,
        "MASTER_PORT": str(spec.master_port),
    }


def _environ(spec: RunSpec, host: RunHost, node_rank: int, run_dir: str) -> dict[str, str]:
    shutdown = max(spec.limits.grace, spec.limits.failure_grace) + _MORE
    return {
        **node_environ(spec, host, node_rank),
        "TORCH_EXTENSIONS_DIR": f"{run_dir}/torch_extensions",
        # An option of torchrun too, but only of recent ones; others ignore the variable.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{shutdown:.0f}",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
        "PYTHONUNBUFFERED": "1",
        "ZEROFLEET_RUN": spec.run,
        "ZEROFLEET_RUN_DIR": run_dir,
        "ZEROFLEET_OUTPUT_DIR": output_folder(spec, host, run_dir),
        # Our trainers save when a stop is asked for (onhost/pausing.py); a script gets SIGTERM.
        **({} if spec.script else {"ZEROFLEET_PAUSE_FILE": f"{run_dir}/pause"}),
    }


def plan_nodes(spec: RunSpec) -> tuple[NodeLaunch, ...]:
    """What each host runs, in node_rank order."""
    nodes: list[NodeLaunch] = []
    first_rank = 0
    for node_rank, host in enumerate(spec.hosts):
        run_dir = f"{host.home}/{RUNS}/{spec.run}"
        nodes.append(
            NodeLaunch(
                host=host.name,
                node_rank=node_rank,
                nnodes=len(spec.hosts),
                nproc_per_node=host.nproc_per_node,
                first_rank=first_rank,
                argv=_argv(spec, host, node_rank, run_dir),
                environ=_environ(spec, host, node_rank, run_dir),
                run_dir=run_dir,
                output=output_folder(spec, host, run_dir),
                secrets=spec.environ.secret,
            )
        )
        first_rank += host.nproc_per_node
    return tuple(nodes)

"""RunSpec → LaunchPlan: every node's torchrun command in full, and the steps that start it.

One value, several uses: it is printed (to paste by hand), applied over SSH, or shown as JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import ConfigError
from provision.launch.spec import RunHost, RunSpec
from provision.steps import Phase, Plan, Put, Run, Step

#: Where runs are on a host, below HOME.
RUNS = ".zerofleet/runs"
#: torchrun gives its ranks this long after SIGTERM, less than the supervisor gives torchrun.
_HEAD_START = 5.0

ScriptArgv = Callable[[str, Sequence[str]], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """A file that travels into the run folder's ``code/``. ``target`` is relative to that."""

    target: str
    source: Path
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class NodeLaunch:
    """What one host runs. ``first_rank`` is the global rank of its local rank 0."""

    host: str
    node_rank: int
    nnodes: int
    nproc_per_node: int
    first_rank: int
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    run_dir: str

    @property
    def command(self) -> str:
        """The torchrun command for a shell on the host."""
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
            "run_dir": self.run_dir,
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """A run, ready to start: what each node runs, and the steps that bring that about."""

    run: str
    nodes: tuple[NodeLaunch, ...]
    plan: Plan

    @property
    def run_dirs(self) -> dict[str, str]:
        """Each host's run folder, absolute there."""
        return {node.host: node.run_dir for node in self.nodes}

    def __str__(self) -> str:
        lines = [str(self.plan), "", "by hand, one command on each host:"]
        for node in self.nodes:
            lines += [f"  # {node.host}: NODE_RANK {node.node_rank}", f"  {node.command}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The ``launch`` key of ``--dry-run --json``: keys are only ever added."""
        nodes = [node.as_json() for node in self.nodes]
        return {"run": self.run, "nodes": nodes, "plan": self.plan.as_json()}


def read_code_files(checkout: Path) -> tuple[CodeFile, ...]:
    """What every host runs: trainer/*.py and zero_configs/*.json of a checkout, hashed."""
    paths = sorted([*checkout.glob("trainer/*.py"), *checkout.glob("zero_configs/*.json")])
    return tuple(
        CodeFile(
            target=path.relative_to(checkout).as_posix(),
            source=path,
            sha256=hashlib.sha256(content := path.read_bytes()).hexdigest(),
            size=len(content),
        )
        for path in paths
    )


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
    return re.sub(r"(^|,)~/", lambda match: f"{match[1]}{home}/", path)


def _argv(spec: RunSpec, host: RunHost, node_rank: int, run_dir: str) -> tuple[str, ...]:
    flags = {
        "model_name_or_path": _on_host(spec.model, host.home),
        "train_file_dir": _on_host(spec.data, host.home),
        "output_dir": _on_host(spec.output, host.home) if spec.output else f"{run_dir}/output",
        "deepspeed": f"{run_dir}/code/zero_configs/{spec.zero_config}",
        **{k: _on_host(v, host.home) if isinstance(v, str) else v for k, v in spec.flags.items()},
    }
    # torchrun's static rendezvous, its default: the plan knows every node's rank, so no host has
    # to be found by its own name (https://github.com/pytorch/pytorch/issues/73656).
    launcher = {
        "--nnodes": len(spec.hosts),
        "--node-rank": node_rank,
        "--nproc-per-node": host.nproc_per_node,
        "--master-addr": spec.master_addr,
        "--master-port": spec.master_port,
        "--log-dir": f"{run_dir}/ranks",
        "--tee": 3,  # both streams of every rank, to its files and to torchrun's own output
    }
    options = [str(word) for pair in launcher.items() for word in pair]
    python = _on_host(spec.python, host.home)
    module = f"trainer.{spec.objective}"
    return (python, "-m", "torch.distributed.run", *options, "-m", module, *trainer_argv(flags))


def _environ(spec: RunSpec, host: RunHost, node_rank: int, run_dir: str) -> dict[str, str]:
    shutdown = max(1.0, spec.grace - _HEAD_START)
    environ = {
        # The names that LLaMA-Factory's launcher reads, for scripts written for it:
        # https://llamafactory.readthedocs.io/en/latest/advanced/distributed.html
        "NODE_RANK": str(node_rank),
        "NNODES": str(len(spec.hosts)),
        "NPROC_PER_NODE": str(host.nproc_per_node),
        "MASTER_ADDR": spec.master_addr,
        "MASTER_PORT": str(spec.master_port),
        "DS_ACCELERATOR": spec.accelerator,
        "TORCH_EXTENSIONS_DIR": f"{run_dir}/torch_extensions",
        # An option of torchrun too, but only of recent ones; others ignore the variable.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{shutdown:.0f}",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "ZEROFLEET_RUN": spec.run,
        "ZEROFLEET_RUN_DIR": run_dir,
    }
    if host.socket_interface:
        # Without it, gloo takes the address of the host's own name, often 127.0.1.1.
        environ["GLOO_SOCKET_IFNAME"] = environ["NCCL_SOCKET_IFNAME"] = host.socket_interface
    if host.cores:
        environ["OMP_NUM_THREADS"] = str(max(1, host.cores // host.nproc_per_node))
    if spec.offline:
        environ["HF_HUB_OFFLINE"] = "1"
    return environ


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
            )
        )
        first_rank += host.nproc_per_node
    return tuple(nodes)


def _plan_json(spec: RunSpec, node: NodeLaunch) -> Put:
    """plan.json, what the supervisor reads; readable by its owner only."""
    plan = {
        "run": spec.run,
        "node_rank": node.node_rank,
        "nnodes": node.nnodes,
        "nproc_per_node": node.nproc_per_node,
        "first_rank": node.first_rank,
        "argv": list(node.argv),
        "environ": dict(node.environ),
        "limits": {"grace": spec.grace},
    }
    content = json.dumps(plan, indent=1).encode()
    return Put(
        target=f"{node.run_dir}/plan.json",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        content=content,
        mode=0o600,
    )


def _files(spec: RunSpec, node: NodeLaunch, code: Sequence[CodeFile]) -> tuple[Step, ...]:
    puts = [
        Put(
            target=f"{node.run_dir}/code/{file.target}",
            source=file.source,
            sha256=file.sha256,
            size=file.size,
        )
        for file in code
    ]
    why = "every host runs the same bytes, and a later run can't change them"
    steps = [Step(host=node.host, do=put, why=why) for put in puts]
    why = "what the supervisor starts on this node"
    return (*steps, Step(host=node.host, do=_plan_json(spec, node), why=why))


def plan_launch(spec: RunSpec, code: Sequence[CodeFile], script_argv: ScriptArgv) -> LaunchPlan:
    """The run's LaunchPlan.

    ``script_argv(name, args)`` gives the argv that runs a script of onhost/ on a host. Raises
    ConfigError when the code lacks the trainer or the DeepSpeed configuration.
    """
    targets = {file.target for file in code}
    for needed in (f"trainer/{spec.objective}.py", f"zero_configs/{spec.zero_config}"):
        if needed not in targets:
            raise ConfigError(
                "code",
                found=f"no {needed}",
                expected="it, in this checkout",
                remedy="run from a complete checkout",
            )
    nodes = plan_nodes(spec)
    starts = tuple(
        Step(
            host=node.host,
            do=Run(
                argv=script_argv("supervise", ["start", node.run_dir]),
                title=f"supervise start {node.run_dir}",
            ),
            why=f"node_rank {node.node_rank}: {node.nproc_per_node} of the run's ranks, "
            "supervised there, whatever becomes of this connection",
        )
        for node in nodes
    )
    files = tuple(step for node in nodes for step in _files(spec, node, code))
    phases = (Phase(name="run folder", steps=files), Phase(name="start", steps=starts))
    return LaunchPlan(run=spec.run, nodes=nodes, plan=Plan(title=f"run {spec.run}", phases=phases))

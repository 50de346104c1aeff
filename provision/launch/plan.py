"""RunSpec and code → LaunchPlan: every node's command, and the steps that start it.

One value, several uses: it is printed (to paste by hand), applied over SSH, or shown as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from provision.errors import ConfigError
from provision.launch.byhand import by_hand_json
from provision.launch.code import OWN, Code
from provision.launch.nodes import NodeLaunch, plan_nodes
from provision.launch.peers import heartbeat_ports, peers_json
from provision.launch.spec import RunHost, RunSpec
from provision.names import fold
from provision.steps import Phase, Plan, Put, Run, Step

ScriptArgv = Callable[[str, Sequence[str]], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """A run, ready to start: what each node runs, and the steps that bring that about.

    ``code`` says which files travel; ``spec`` is what all of this was planned from; ``own_config``
    is the text of the user's own DeepSpeed configuration, where that is one of those files.
    """

    run: str
    nodes: tuple[NodeLaunch, ...]
    plan: Plan
    code: str
    spec: RunSpec
    own_config: str = ""

    @property
    def run_dirs(self) -> dict[str, str]:
        """Each host's run folder, absolute there."""
        return {node.host: node.run_dir for node in self.nodes}

    def __str__(self) -> str:
        lines = [str(self.plan), "", f"code: {self.code}"]
        environ = self.spec.environ
        if environ.variables or environ.left_out:
            lines += ["", "environment of the ranks, beside what the commands set:"]
            lines += [f"  {variable}" for variable in environ.variables]
            lines += [f"  not passed: {name}" for name in environ.left_out]
        if len(self.nodes) > 1:
            limits = (
                "limits: {grace:.0f} s to save after a stop, {failure_grace:.0f} s after a failure;"
                " a host is lost after {lost_after:.0f} s of silence; every node is to be heard of "
                "within {start_within:.0f} s"
            )
            lines += ["", limits.format(**asdict(self.spec.limits))]
        lines += [f"NUMA binding: {text}" for text in self._bindings()]
        lines += ["", "by hand, one command on each host:"]
        for node in self.nodes:
            lines += [f"  # {node.host}: NODE_RANK {node.node_rank}", f"  {node.command}"]
        return "\n".join(lines)

    def _bindings(self) -> list[str]:
        """How ranks are bound to CPUs, hosts that are alike together; none where nobody asked."""
        ways = dict.fromkeys(host.numa for host in self.spec.hosts if host.numa)
        return [
            f"{fold(host.name for host in self.spec.hosts if host.numa == way)}: {way}"
            for way in ways
        ]

    def as_json(self) -> dict[str, object]:
        """The ``launch`` key of ``--dry-run --json``: keys are only ever added."""
        nodes = [node.as_json() for node in self.nodes]
        return {
            "run": self.run,
            "code": self.code,
            "nodes": nodes,
            "limits": asdict(self.spec.limits),
            "numa_binding": self._bindings(),
            "environment": [str(variable) for variable in self.spec.environ.variables],
            "not_passed": list(self.spec.environ.left_out),
            "plan": self.plan.as_json(),
        }


def _private_json(target: str, value: Mapping[str, object]) -> Put:
    """A file that its owner alone reads."""
    content = json.dumps(value, indent=1).encode()
    return Put(
        target=target,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        content=content,
        mode=0o600,
    )


def asked_json(spec: RunSpec, host: RunHost) -> dict[str, object]:
    """What was asked for and can't be told from the commands: a resumed run is made of it, too."""
    return {
        "devices": None if host.devices is None else list(host.devices),
        "numa_binding": host.numa.asked if host.numa else "auto",
        "master_port": spec.master_port,
        "environ": spec.environ.plain,
        "secrets": sorted(spec.environ.secret),
    }


def plan_json(spec: RunSpec, node: NodeLaunch) -> dict[str, object]:
    """plan.json, what the supervisor reads."""
    return {
        "run": spec.run,
        "node_rank": node.node_rank,
        "nnodes": node.nnodes,
        "nproc_per_node": node.nproc_per_node,
        "first_rank": node.first_rank,
        "argv": list(node.argv),
        "environ": dict(node.environ),
        "limits": asdict(spec.limits),
        "asked": asked_json(spec, spec.hosts[node.node_rank]),
        "peers": peers_json(spec, node.node_rank) if spec.by_hand is None else by_hand_json(spec),
    }


def _folder(spec: RunSpec, node: NodeLaunch, code: Code, script_argv: ScriptArgv) -> list[Step]:
    """The steps that make a host's run folder."""
    archive = f".zerofleet/store/{code.sha256}/code.tar.gz"
    steps = []
    if f"{code.sha256}/code.tar.gz" not in spec.hosts[node.node_rank].store:
        put = Put(target=archive, sha256=code.sha256, size=len(code.archive), content=code.archive)
        why = "every host runs the same bytes"
        steps.append(Step(host=node.host, do=put, why=why))
    put = _private_json(f"{node.run_dir}/plan.json", plan_json(spec, node))
    steps.append(Step(host=node.host, do=put, why="what the supervisor starts on this node"))
    if node.secrets:
        put = _private_json(f"{node.run_dir}/secrets.json", dict(node.secrets))
        why = f"{', '.join(sorted(node.secrets))}: removed there once read"
        steps.append(Step(host=node.host, do=put, why=why))
    unpack = Run(
        argv=script_argv("unpack", [archive, code.sha256, f"{node.run_dir}/code"]),
        title=f"unpack {archive} to {node.run_dir}/code",
        order={
            "do": "unpack",
            "archive": archive,
            "sha256": code.sha256,
            "folder": f"{node.run_dir}/code",
        },
    )
    why = "the run's own copy: later runs can't change it"
    return [*steps, Step(host=node.host, do=unpack, why=why)]


def _require_code(spec: RunSpec, code: Code) -> None:
    """ConfigError when the code lacks what the spec runs."""
    needed = [f"trainer/{spec.objective}.py", f"zero_configs/{spec.zero_config}"]
    for target in [spec.script.path] if spec.script else needed:
        if target not in code:
            raise ConfigError(
                "code",
                found=f"no {target}",
                expected="that file in this checkout",
                remedy="run from a complete checkout, of a release that has it",
            )


def _beats(spec: RunSpec, node_rank: int) -> str:
    """Where a node's supervisor hears the others, in words."""
    if len(spec.hosts) == 1:
        return ""
    if spec.by_hand is not None:
        return f"; heartbeat at UDP port {spec.master_port}, by way of node 0"
    address, port = spec.hosts[node_rank].address, heartbeat_ports(spec)[node_rank]
    return f"; heartbeat at {address} UDP port {port}"


def plan_launch(spec: RunSpec, code: Code, script_argv: ScriptArgv) -> LaunchPlan:
    """The run's LaunchPlan.

    ``script_argv(name, args)`` gives the argv that runs a script of onhost/ on a host. Raises
    ConfigError when the code lacks the script, the trainer or the DeepSpeed configuration.
    """
    _require_code(spec, code)
    nodes = tuple(n for n in plan_nodes(spec) if spec.by_hand in (None, n.node_rank))
    starts = tuple(
        Step(
            host=node.host,
            do=Run(
                argv=script_argv("supervise", ["start", node.run_dir]),
                title=f"supervise start {node.run_dir}",
                order={"do": "start", "run_dir": node.run_dir},
            ),
            why=f"node_rank {node.node_rank}: {node.nproc_per_node} of the run's ranks, "
            f"supervised there, whatever becomes of this connection{_beats(spec, node.node_rank)}",
        )
        for node in nodes
    )
    files = tuple(step for node in nodes for step in _folder(spec, node, code, script_argv))
    phases = (Phase(name="run folder", steps=files), Phase(name="start", steps=starts))
    plan = Plan(title=f"run {spec.run}", phases=phases)
    own = code.text(f"zero_configs/{OWN}") if spec.zero_config == OWN else ""
    return LaunchPlan(
        run=spec.run, nodes=nodes, plan=plan, code=str(code), spec=spec, own_config=own
    )

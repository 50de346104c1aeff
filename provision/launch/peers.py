"""Who takes part in the heartbeat of a run: what the supervisors are told of one another."""

from __future__ import annotations

from provision.errors import ConfigError
from provision.launch.spec import RunSpec
from provision.preflight import mesh


def heartbeat_ports(spec: RunSpec) -> tuple[int, ...]:
    """Each node's UDP port, as preflight tested it."""
    return mesh.heartbeat_ports([host.address for host in spec.hosts], spec.master_port)


def peers_json(spec: RunSpec, node_rank: int) -> dict[str, object] | None:
    """``peers`` of a node's plan.json (provision/onhost/heartbeat.py); None for a run of one host.

    Raises ConfigError for a host whose address towards the others isn't known.
    """
    if len(spec.hosts) == 1:
        return None
    ports = heartbeat_ports(spec)
    nodes = []
    for rank, (host, port) in enumerate(zip(spec.hosts, ports, strict=True)):
        if not host.address:
            raise ConfigError(
                f"{host.name}: address",
                found="unknown",
                expected="the address that the run's other hosts reach it at",
                remedy="see what invoke preflight says of its interface",
            )
        if port > 65535:
            raise ConfigError(
                "--master-port",
                found=spec.master_port,
                expected=f"at most {65535 - max(ports) + spec.master_port}: hosts that share an "
                "address take the ports after it",
                remedy="choose a lower one",
            )
        node = {"node_rank": rank, "host": host.name, "address": host.address, "port": port}
        nodes.append(node)
    own = {key: nodes[node_rank][key] for key in ("address", "port")}
    return {"secret": spec.secret, **own, "nodes": nodes}

"""Nodes that persons start, each standing on one: how their supervisors find one another.

Nobody tells them a secret, a run's id or one another's names. What all were given is MASTER_ADDR
and MASTER_PORT, so all say hello to node 0 there (provision/onhost/heartbeat.py).
"""

from __future__ import annotations

from provision.launch.spec import RunSpec

#: Seconds that a node waits for all others: persons walk from one to the next. torchrun's own
#: rendezvous gives up after 600 (torch/distributed/elastic/rendezvous/static_tcp_rendezvous.py).
START_WITHIN = 300.0


def by_hand_json(spec: RunSpec) -> dict[str, object] | None:
    """``peers`` of the one node that is started here; None for a run of one node."""
    if spec.by_hand is None or len(spec.hosts) == 1:
        return None
    own = spec.hosts[spec.by_hand]
    ranks: list[dict[str, object]] = [{"node_rank": rank} for rank in range(len(spec.hosts))]
    ranks[spec.by_hand]["host"] = own.name
    return {
        "secret": spec.secret,
        "circle": str(spec.master_port),
        "meet": [spec.master_addr, spec.master_port],
        "port": spec.master_port,
        "common": {
            "nnodes": len(spec.hosts),
            "nproc_per_node": own.nproc_per_node,
            "launcher": spec.launcher,
            "program": spec.script.path if spec.script else f"trainer.{spec.objective}",
            "zero": spec.zero_config,
        },
        "nodes": ranks,
    }

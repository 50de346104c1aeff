"""Read what preflight needs: paths, data rows and the master port, as they are on the hosts now."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.errors import ProvisionError
from provision.fleet import Fleet
from provision.remote import Remote
from provision.script import parse_answer, script_argv

Answers = Mapping[str, Mapping[str, Any] | ProvisionError]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run would use. Paths are paths on the hosts; "" where the run needs none.

    ``slots``: ranks per host, in node_rank order; its first key is node 0. ``lock``: the
    environment that every host must have.
    """

    slots: Mapping[str, int]
    master_addr: str
    master_port: int
    accelerator: str
    lock: str
    model: str = ""
    data: str = ""
    output: str = ""

    @property
    def node0(self) -> str:
        """The host that the others meet at."""
        return next(iter(self.slots))


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What the hosts answered: per host, or the error in its place."""

    paths: Answers
    rows: Answers
    listen: Mapping[str, Any]
    dials: Answers


def gather_ready(fleet: Fleet, wanted: Wanted, rows_program: str) -> Ready:
    """Ask every host; ``rows_program`` is the trainer's own row reader, run there on the data."""
    paths = {"output": wanted.output, "model": wanted.model}
    rows: Answers = {}
    if wanted.data:
        rows = fleet.fan_out(
            lambda remote: remote.ask_text(rows_program, "rows.py", [wanted.data]),
            tuple(wanted.slots),
        )
    answers = fleet.ask("ready", {host: ["paths", json.dumps(paths)] for host in wanted.slots})
    listen, dials = gather_port(fleet, wanted)
    return Ready(paths=answers, rows=rows, listen=listen, dials=dials)


def gather_port(fleet: Fleet, wanted: Wanted) -> tuple[Mapping[str, Any], Answers]:
    """Really listen at node 0's master port, and dial it from every host, node 0 included.

    Returns the listener's answer and each host's.
    """
    token = secrets.token_hex(16)
    hosts, port = tuple(wanted.slots), str(wanted.master_port)
    listening, answer = threading.Event(), dict[str, Any]()

    def serve(remote: Remote) -> None:
        def on_line(line: str) -> None:
            if "ZEROFLEET-LISTENING" in line:
                listening.set()

        try:
            argv = script_argv("ready", ["listen", port, token, str(len(hosts))])
            _, out, err = remote.run(argv, on_line)
            answer.update(parse_answer(remote.label, out, err))
        except ProvisionError as error:
            answer["error"] = str(error)
        finally:
            listening.set()

    thread = threading.Thread(
        target=lambda: fleet.fan_out(serve, (wanted.node0,)), name="listener", daemon=True
    )
    thread.start()
    listening.wait()
    if "error" in answer:
        thread.join()
        return answer, {}
    dials = _dial(fleet, hosts, ["dial", wanted.master_addr, port, token])
    # Dials that failed leave the listener waiting for them: it ends by its own deadline.
    thread.join()
    return answer, dials


def _dial(fleet: Fleet, hosts: Sequence[str], args: Sequence[str]) -> Answers:
    return fleet.ask("ready", dict.fromkeys(hosts, args))

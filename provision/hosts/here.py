"""This machine, read as any host is: with the very same script."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from provision.hosts.facts import HostFacts, parse_facts
from provision.script import parse_answer, script_argv

#: How findings call it.
HERE = "this machine"


def read_here(peers: Sequence[str] = ()) -> HostFacts:
    """Facts of the machine that this process runs on; ``peers`` as in gather_facts.

    Raises:
        HostError: the probe gave no answer.
    """
    done = subprocess.run(
        script_argv("probe", [json.dumps({"peers": list(peers)})], sys.executable),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return parse_facts(HERE, parse_answer(HERE, done.stdout, done.stderr))

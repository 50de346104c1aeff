"""The Slurm run that a command line names, by its own name or its job's number."""

from __future__ import annotations

from pathlib import Path

from provision.errors import ConfigError
from provision.launch.nodes import RUNS
from provision.settings import Settings
from provision.slurm.read import read_record


def read_slurm_run(s: Settings) -> Path | None:
    """The folder of the Slurm run that the command line names; None where it names none.

    Raises ConfigError where there is no hosts file either.
    """
    wanted, over_ssh = str(s.run), "hosts" in s.given or s.hosts.is_file()
    if wanted == "last" and over_ssh:
        return None  # the last one over SSH
    shared = s.shared or Path.home()
    found = read_record(shared, wanted)
    if found is None and not over_ssh:
        raise ConfigError(
            f"run {wanted}",
            found=f"no hosts file {s.hosts}, and no such run of a Slurm job below {shared / RUNS}",
            expected="one of them",
            remedy="name a hosts file with --hosts or, for a Slurm job's run, the folder that its "
            "nodes share with --shared; `invoke runs` lists runs",
        )
    return found


def read_run_of_job(s: Settings) -> str:
    """The run whose job's number the command line has; empty where it has none."""
    found = str(s.run).isdecimal() and read_record(s.shared or Path.home(), str(s.run))
    return found.name if found else ""

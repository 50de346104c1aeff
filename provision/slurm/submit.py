"""A rendered job → the run's folder on the shared file system, and Slurm's answer to it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ConfigError
from provision.launch.code import Code
from provision.launch.here import apply_run_here
from provision.script import read_onhost, script_argv
from provision.slurm.render import JOB_FILE, SECRETS
from provision.steps import Put, Run

#: What Slurm's commands may take: a busy controller answers late.
SECONDS = 120
#: Programs of onhost/ that the job calls.
PROGRAMS = ("node_checks", "job_end")
#: What a run's folder says of its job.
RECORD = "slurm.json"

# What of sbatch's refusals a user can mend, and how: slurm_errno.c has the texts.
_REMEDIES: Mapping[str, str] = {
    r"invalid partition": "name another (--partition; --slurm); `sinfo -s` lists them",
    r"node configuration is not|More processors requested|node count|PartitionNodeLimit": (
        "ask for less with --nodes, --gpus, --cpus-per-task or --mem; "
        "`sinfo -o '%P %D %c %m %G'` says what nodes have"
    ),
    r"[Ii]nvalid (generic resource|gres|Trackable)": (
        "correct --gpus, as in 8 or a100:8; `sinfo -o '%P %G'` lists the names"
    ),
    r"[Ii]nvalid ?[Aa]ccount|account not known|AccountNotAllowed": (
        "name yours with --account; `sacctmgr show assoc user=$USER format=account` lists them"
    ),
    r"[Ii]nvalid qos": "correct --qos; `sacctmgr show qos format=name` lists them",
    r"[Tt]ime ?[Ll]imit": "give less --time; `sinfo -o '%P %l'` lists each partition's limit",
    r"[Ii]nvalid feature": "correct --constraint; `sinfo -o '%P %f'` lists what nodes have",
    r"DOS line breaks": "take them out: sed -i 's/\\r$//' FILE",
    r"Unable to contact|Connection refused|Socket timed out": "ask whoever runs the cluster",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that Slurm took: its id, as squeue and scancel want it, and its file."""

    job: str
    run: str
    file: Path

    def as_json(self) -> dict[str, str]:
        """For ``--json``; keys are only ever added."""
        return {"job": self.job, "run": self.run, "file": str(self.file)}


def read_slurm(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What one of Slurm's commands says that changes nothing: squeue, ``scontrol show``, ….

    ConfigError where Slurm is not installed, or does not answer.
    """
    return _run(argv, stdin)


def apply_command(do: Run | Put) -> str:
    """What one of Slurm's commands says that changes something: sbatch, scancel.

    ConfigError as in read_slurm; or, with its words, when it refuses.
    """
    assert isinstance(do, Run), "Slurm takes commands alone"
    done = _run(do.argv)
    if done.returncode:
        raise refusal(done.stderr, done.returncode, do.argv[0])
    return done.stdout


def _run(argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    if shutil.which(argv[0]) is None:
        raise ConfigError(
            argv[0],
            found="no such command on this machine",
            expected="Slurm's commands",
            remedy="stand on a login node of the cluster; --file FILE writes a job file anywhere",
        )
    try:
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            argv[0],
            found=f"no answer within {SECONDS} s",
            expected="one",
            remedy="look at `sinfo`; Slurm's controller may be down",
        ) from None


def refusal(said: str, code: int, command: str = "sbatch") -> ConfigError:
    """Slurm's own words as an error, and what mends it. Pure."""
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in said.splitlines() if line.strip()]
    words = "; ".join(lines) or f"exit {code} without a word"
    known = (way for pattern, way in _REMEDIES.items() if re.search(pattern, words))
    return ConfigError(
        command,
        found=words,
        expected="exit 0" if command == "scancel" else "a job that this cluster takes",
        remedy=next(known, f"those are Slurm's own words: see `man {command}`"),
    )


def parse_forecast(said: str) -> str:
    """What ``sbatch --test-only`` foresees, in a person's words. Pure."""
    match = re.search(
        r"to start at (\S+) using (\d+) processors on nodes (\S+)(?: in partition (\S+))?", said
    )
    if match is None:
        return " ".join(said.split()) or "Slurm would take it"
    at, cpus, nodes, partition = match.groups()
    where = f"{cpus} CPUs on {nodes}" + (f" in partition {partition}" if partition else "")
    # Behind jobs without a time limit it counts on their running for years.
    if int(at[:4]) > time.gmtime().tm_year + 1:
        return f"Slurm takes it: {where}, once jobs without a time limit have ended"
    return f"Slurm takes it: it would start at {at} with {where}, as the queue is now"


def read_forecast(text: str) -> str:
    """Let Slurm look at the job without submitting it; ConfigError with its words if it refuses."""
    done = read_slurm(["sbatch", "--test-only"], text)
    if done.returncode:
        raise refusal(done.stderr, done.returncode)
    return parse_forecast(done.stderr)


def apply_folder(
    run_dir: Path, text: str, code: Code, secrets: Mapping[str, str], plan: Mapping[str, object]
) -> None:
    """Make the run's folder: code, the job file and what it calls, and ``plan``, as over SSH.

    Raises ConfigError if it can't be made, or is there already.
    """
    try:
        run_dir.mkdir(parents=True, mode=0o700)
        for name in PROGRAMS:
            (run_dir / f"{name}.py").write_text(read_onhost(name), encoding="utf-8")
        if secrets:
            lines = (f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items())
            descriptor = os.open(run_dir / SECRETS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(lines)
        archive = run_dir / "code.tar.gz"
        archive.write_bytes(code.archive)
        words = [str(archive), code.sha256, str(run_dir / "code")]
        apply_run_here(Run(argv=script_argv("unpack", words)), "unpack the run's code")
        archive.unlink()
        (run_dir / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")
        (run_dir / JOB_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"run folder {run_dir}",
            found=error.strerror or error,
            expected="a folder that can be made here, and that every node sees",
            remedy="name one on the shared file system with --shared",
        ) from None


def plan_submit(run_dir: Path) -> Run:
    """How the job file of a run's folder is submitted."""
    return Run(argv=("sbatch", "--parsable", str(run_dir / JOB_FILE)))


def require_line_ends(file: Path) -> None:
    r"""ConfigError for a job file that an editor has given the line ends of DOS.

    Slurm looks only for ``\r\n``, and takes a lone carriage return for part of an option.
    """
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.endswith(b"\r") or (line.startswith(b"#SBATCH") and b"\r" in line):
            raise ConfigError(
                f"job file {file}",
                found=f"a carriage return in line {number}: line ends of DOS",
                expected="lines that end as Unix has them",
                remedy=f"sed -i 's/\\r$//' {shlex.quote(str(file))}",
            )


def apply_submit(run_dir: Path, run: str) -> Job:
    """Submit the job file of a run's folder, which its owner may have edited.

    ConfigError for one that can't be right, and with Slurm's words if it refuses.
    """
    file = run_dir / JOB_FILE
    require_line_ends(file)
    # "1234", or "1234;cluster" where there are several.
    job = apply_command(plan_submit(run_dir)).strip().splitlines()[-1].partition(";")[0]
    record = {"job": job, "run": run, "submitted_at": time.time()}
    (run_dir / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
    return Job(job=job, run=run, file=file)

"""LaunchPlan and SlurmSpec → the file that sbatch takes. Pure.

The nodes need no ZeroFleet: an environment and the run's folder, both where every node sees them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from provision.errors import ConfigError
from provision.launch.nodes import meeting, program_argv, shared_environ
from provision.launch.plan import LaunchPlan
from provision.launch.spec import RunSpec
from provision.slurm import text
from provision.slurm.spec import SlurmSpec
from provision.slurm.text import fill

#: Besides the code, what the job file calls and writes in the run's folder.
JOB_FILE, JOB_LOG, SECRETS = "job.sbatch", "job.log", "secrets.sh"
#: The variable that names the file which asks a run to save; only jobs that go on have it.
PAUSE_FILE = "ZEROFLEET_PAUSE_FILE"
#: A run's master address and port where only the job knows them.
MASTER_ADDR, FROM_JOB_ID = "$MASTER_ADDR", 65535

# sbatch and srun take a % in a log's path for a pattern.
_PLAIN_PATH = re.compile(r"/[\w./@+,:=-]*")
_CARDS = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}


def render(launch: LaunchPlan, job: SlurmSpec) -> str:
    """The job file of a run whose nodes are all as the plan's first one.

    Raises ConfigError for a path that an #SBATCH line can't hold, and for DeepSpeed's launcher,
    which wants to know the nodes' names before Slurm has chosen them.
    """
    if launch.spec.launcher != "torchrun":
        raise ConfigError(
            "--launcher",
            found=launch.spec.launcher,
            expected="torchrun: the other has to know the nodes before Slurm chooses them",
            remedy="leave out --launcher",
        )
    run_dir = require_plain("--shared", launch.nodes[0].run_dir)
    python = launch.spec.python.replace("~", launch.spec.hosts[0].home, 1)
    ranks = launch.spec.hosts[0].nproc_per_node
    parts = (
        _header(launch, job, run_dir),
        fill(text.WHERE, run_dir=run_dir, python=require_plain("--python", python)),
        text.PAUSE if job.restarts else "",
        _environment(launch, job),
        _meeting(launch.spec),
        _program(launch, run_dir),
        fill(text.CHECKS, words=_checked(launch.spec)) if job.preflight else "",
        _start(launch.spec, job),
        text.WAIT_WOKEN if job.restarts else text.WAIT,
        fill(text.REPORT if job.restarts else text.REPORT_ONLY, ranks=ranks),
        fill(text.AGAIN, restarts=job.restarts) if job.restarts else text.DONE,
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def goes_on(text: str) -> bool:
    """Whether a job file, submitted again, goes on where its run was. Pure."""
    return f"export {PAUSE_FILE}=" in text


def require_plain(flag: str, path: str) -> str:
    """A path that is the same in sbatch's, srun's and a shell's eyes; else ConfigError."""
    if _PLAIN_PATH.fullmatch(path):
        return path
    raise ConfigError(
        flag,
        found=repr(path),
        expected="an absolute path of letters, digits and . _ @ + , : = -",
        remedy="Slurm reads % and spaces in paths of logs: name a plainer folder",
    )


def _header(launch: LaunchPlan, job: SlurmSpec, run_dir: str) -> str:
    """What the job is, and the #SBATCH lines. The signal goes to the batch shell alone (B:)."""
    spec = launch.spec
    options = {
        **job.options(gpus=spec.accelerator != "cpu"),
        "output": f"{run_dir}/{JOB_LOG}",
        "open-mode": "append",
        **({"signal": f"B:USR1@{job.lead}"} if job.restarts else {}),
    }
    zero = spec.zero_config.removesuffix(".json")
    what = f"{spec.objective}, DeepSpeed {zero}" if zero else f"{spec.script and spec.script.path}"
    ranks = spec.hosts[0].nproc_per_node
    where = f"{job.nodes} nodes with {ranks} ranks each" if job.nodes > 1 else f"{ranks} ranks"
    goes_on = "\n# It goes on after its time limit, and after a lost node." if job.restarts else ""
    return "\n".join(
        (
            "#!/bin/bash",
            f"# Run {launch.run}: {what}, {where}.",
            f"# One task a node: a torchrun, which starts that node's ranks.{goes_on}",
            *(f"#SBATCH --{name}={value}" for name, value in options.items()),
            *(["#SBATCH --exclusive"] if job.exclusive else []),
            f"#SBATCH --{'' if job.restarts else 'no-'}requeue",
            *(f"#SBATCH {option}" for option in job.more),
        )
    )


def _environment(launch: LaunchPlan, job: SlurmSpec) -> str:
    spec, node = launch.spec, launch.nodes[0]
    values = {
        **shared_environ(spec, spec.hosts[0]),
        "PYTHONUNBUFFERED": "1",
        "ZEROFLEET_RUN": launch.run,
    }
    own = {"ZEROFLEET_RUN_DIR": node.run_dir, "ZEROFLEET_OUTPUT_DIR": node.output}
    if job.restarts:
        own[PAUSE_FILE] = f"{node.run_dir}/pause"
    exports = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    exports += [f"export {name}={_word(path, node.run_dir)}" for name, path in own.items()]
    if "OMP_NUM_THREADS" not in values:
        exports.append(fill(text.CPUS, ranks=spec.hosts[0].nproc_per_node))
    if spec.environ.secret:
        names = ", ".join(sorted(spec.environ.secret))
        exports += [
            f"# {names}: in a file that only its owner reads",
            "# shellcheck source=/dev/null",
            f'. "$RUN/{SECRETS}"',
        ]
    return fill(text.ENVIRONMENT, exports="\n".join(exports))


def _meeting(spec: RunSpec) -> str:
    own = spec.master_port == FROM_JOB_ID
    port = text.JOB_PORT if own else f"export MASTER_PORT={spec.master_port}"
    return fill(text.MEETING, port=port)


def _program(launch: LaunchPlan, run_dir: str) -> str:
    """What every rank runs, as a bash array: a flag and its values to a line."""
    spec, node = launch.spec, launch.nodes[0]
    words = program_argv(spec, spec.hosts[0], node.output, f"{run_dir}/code")
    lines: list[list[str]] = []
    for word in words:
        if word.startswith("-") or not lines:
            lines.append([])
        lines[-1].append(_word(word, run_dir))
    plain = "# shellcheck disable=SC2016 # a $ in here is meant as it stands\n"
    begin = f"{plain if any('$' in word for word in words) else ''}program=("
    return "\n".join((begin, *(f"    {' '.join(line)}" for line in lines), ")"))


def _word(word: str, run_dir: str) -> str:
    """A word for the shell; below the run's folder as ``"$RUN/…"``, which a person reads sooner."""
    path = PurePosixPath(word)
    if word.startswith("/") and path.is_relative_to(run_dir):
        rest = str(path.relative_to(run_dir))
        if re.fullmatch(r"[\w./-]+", rest):
            return '"$RUN"' if rest == "." else f'"$RUN/{rest}"'
    # A comma needs no quotes, but in an array it looks like a mistake.
    return (
        f"'{word}'" if re.fullmatch(r"[\w@%+=:./,-]*,[\w@%+=:./,-]*", word) else shlex.quote(word)
    )


def _checked(spec: RunSpec) -> str:
    """What the nodes are asked for: ranks, accelerator, and the paths that have to be there."""
    home = spec.hosts[0].home
    named: Sequence[str] = () if spec.script else (spec.model, *spec.data.split(","))
    whole = (re.sub(r"^~/", f"{home}/", path) for path in named)
    paths = [path for path in whole if path.startswith("/")]
    return shlex.join([str(spec.hosts[0].nproc_per_node), spec.accelerator, *paths])


def _start(spec: RunSpec, job: SlurmSpec) -> str:
    own = {"--nnodes", "--node-rank"}  # the text has them, as the node itself knows them
    known = {"--master-addr": '"$MASTER_ADDR"', "--master-port": '"$MASTER_PORT"'}
    options = {**meeting(spec, spec.hosts[0], 0), **known}
    words = " ".join(f"{name} {value}" for name, value in options.items() if name not in own)
    card = "" if job.nodes == 1 or _CARDS & set(spec.environ.plain) else text.CARD
    return fill(text.START, ranks=spec.hosts[0].nproc_per_node, card=card, meeting=words)

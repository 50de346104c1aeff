"""What is wanted of Slurm for a run: nodes, time, partition, and what it does when time is up.

Pure: a SlurmSpec that exists can be rendered. What only the cluster knows (its partitions,
accounts, GPUs) is asked of Slurm itself, in submit.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from provision.errors import ConfigError

#: Options that the job file sets itself → what says the same.
OWNED = {
    "nodes": "--nodes",
    "ntasks": "--gpus: one task a node starts that node's ranks",
    "ntasks-per-node": "--gpus: one task a node starts that node's ranks",
    "job-name": "--job-name",
    "time": "--time",
    "output": "nothing: the log is in the run's folder",
    "error": "nothing: the log is in the run's folder",
    "open-mode": "nothing: a requeued job goes on in its log",
    "signal": "--lead",
    "requeue": "--restarts",
    "no-requeue": "--restarts",
    "partition": "--partition",
    "account": "--account",
    "qos": "--qos",
    "constraint": "--constraint",
    "cpus-per-task": "--cpus-per-task",
    "mem": "--mem",
    "exclusive": "--exclusive",
    "array": "nothing: one job is one run",
    "wait": "invoke status",
    "test-only": "--dry-run",
    "parsable": "--json",
    "chdir": "nothing: the code is in the run's folder",
}
#: Seconds before the limit at which the trainer is asked to save, and how often a job goes on.
LEAD, RESTARTS = 120, 10

# man sbatch, --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
# "days-hours:minutes" and "days-hours:minutes:seconds".
_TIME = re.compile(
    r"(?P<days>\d+)-(?P<dhours>\d+)(:(?P<dminutes>\d+)(:(?P<dseconds>\d+))?)?"
    r"|(?P<hours>\d+):(?P<hminutes>\d+):(?P<hseconds>\d+)"
    r"|(?P<minutes>\d+)(:(?P<seconds>\d+))?"
)
_NAME = re.compile(r"[\w.+-]+")
_VALUE = re.compile(r"[\w.,:/@%+=*&|\[\]()<>!-]+")
_MEMORY = re.compile(r"\d+[KMGT]?")
_GPUS = re.compile(r"(?:(?P<kind>[A-Za-z][\w.-]*):)?(?P<count>\d{1,3})")
_OPTION = re.compile(r"--(?P<name>[a-z][a-z-]*)(?:=\S+)?")


@dataclass(frozen=True, kw_only=True)
class SlurmSpec:
    """A job that can be rendered. Names are sbatch's; None leaves an option at Slurm's default.

    ``gpus`` is of each node, and so is ``nproc_per_node``; ``gpu_type`` None takes any. ``lead``:
    seconds before the time limit at which the run is asked to save. ``restarts``: how often it may
    then go on as the same job; 0 means never. ``more``: other options, word for word.
    """

    nodes: int
    gpus: int
    time: str
    job_name: str
    gpu_type: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    exclusive: bool = False
    more: tuple[str, ...] = ()
    lead: int = LEAD
    restarts: int = RESTARTS
    preflight: bool = True

    def options(self, *, gpus: bool) -> dict[str, object]:
        """Options of sbatch and salloc for these nodes: those that were given, by sbatch's names.

        ``gpus``: whether each node's GPUs are asked for.
        """
        kind = "gpu:" if self.gpu_type is None else f"gpu:{self.gpu_type}:"
        known = {
            "job-name": self.job_name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus_per_task,
            "gres": f"{kind}{self.gpus}" if gpus else None,
            "mem": self.mem,
            "time": self.time,
        }
        return {name: value for name, value in known.items() if value is not None}


def parse_seconds(time: object) -> int | None:
    """A time limit in Slurm's notation, in seconds; None for UNLIMITED.

    Raises ConfigError for any other text, for no time at all, and for a number: YAML reads 20:00:00
    as one, of seconds, where Slurm would take it for minutes.
    """
    if not isinstance(time, str):
        raise ConfigError(
            "invoke.yaml, time",
            found=f"the number {time}",
            expected="a text, in quotes: YAML takes 20:00:00 for the number 72000",
            remedy='write time: "20:00:00"',
        )
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = _TIME.fullmatch(time)
    if match:
        part = {name: int(value or 0) for name, value in match.groupdict().items()}
        days, hours = part["days"], part["dhours"] + part["hours"]
        minutes = part["dminutes"] + part["hminutes"] + part["minutes"]
        seconds = part["dseconds"] + part["hseconds"] + part["seconds"]
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total > 0:
            return total
    raise ConfigError(
        "--time",
        found=repr(time),
        expected="minutes, HH:MM:SS or D-HH:MM:SS",
        remedy="as in --time 20:00:00, which is 20 hours",
    )


def parse_gpus(text: str) -> tuple[int, str | None]:
    """``8`` or ``a100:8`` → how many GPUs a node gives, and of which type."""
    match = _GPUS.fullmatch(text)
    if match is None or not int(match["count"]):
        raise ConfigError(
            "--gpus",
            found=repr(text),
            expected="how many GPUs each node gives, or TYPE:NUMBER",
            remedy="write it as in --gpus 8, or --gpus a100:8",
        )
    return int(match["count"]), match["kind"]


def parse_count(flag: str, value: object, least: int) -> int:
    """A number, at least ``least``."""
    text = str(value)
    if text.isdecimal() and int(text) >= least:
        return int(text)
    raise ConfigError(
        flag, found=repr(value), expected=f"a number, {least} or more", remedy="write it in digits"
    )


def _parse_word(flag: str, value: str | None, shape: re.Pattern[str], expected: str) -> str | None:
    if value is None or shape.fullmatch(str(value)):
        return None if value is None else str(value)
    remedy = "write it as Slurm has it, without other characters"
    raise ConfigError(flag, found=repr(value), expected=expected, remedy=remedy)


def parse_more(options: Sequence[str]) -> tuple[str, ...]:
    """``--sbatch`` options: any that sbatch has, but for those that the file sets itself."""
    for option in options:
        match = _OPTION.fullmatch(option)
        if match is None:
            raise ConfigError(
                "--sbatch",
                found=repr(option),
                expected="one long option of sbatch, as in --sbatch=--reservation=nightly",
                remedy="give --sbatch once for each option; no spaces in it",
            )
        if match["name"] in OWNED:
            raise ConfigError(
                f"--sbatch={option}",
                found="an option that the job file sets itself",
                expected="any other",
                remedy=f"use {OWNED[match['name']]}",
            )
    return tuple(options)


def parse_slurm_spec(
    *,
    nodes: object,
    gpus: str,
    time: object,
    job_name: str,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    cpus_per_task: object = None,
    mem: str | None = None,
    exclusive: bool = False,
    more: Sequence[str] = (),
    lead: int = LEAD,
    restarts: int = RESTARTS,
    preflight: bool = True,
) -> SlurmSpec:
    """The job from flags; ConfigError for the first that Slurm could not take."""
    limit, (count, kind) = parse_seconds(time), parse_gpus(str(gpus))
    if lead < 1 or (limit is not None and lead >= limit):
        raise ConfigError(
            "--lead",
            found=f"{lead} s of a time limit of {time}",
            expected="1 or more, and less than the limit",
            remedy="give as many seconds as saving a checkpoint takes, twice",
        )
    if restarts < 0:
        remedy = "write 0 to have it never begin again"
        raise ConfigError("--restarts", found=restarts, expected="0 or more", remedy=remedy)
    plain = "letters, digits and . _ + -, without spaces or quotes"
    value = "no spaces, quotes or backslashes"
    return SlurmSpec(
        nodes=parse_count("--nodes", nodes, 1),
        gpus=count,
        gpu_type=kind,
        time=str(time),
        job_name=_parse_word("--job-name", job_name, _NAME, plain) or "",
        partition=_parse_word("--partition", partition, _VALUE, value),
        account=_parse_word("--account", account, _NAME, plain),
        qos=_parse_word("--qos", qos, _NAME, plain),
        constraint=_parse_word("--constraint", constraint, _VALUE, value),
        cpus_per_task=None
        if cpus_per_task is None
        else parse_count("--cpus-per-task", cpus_per_task, 1),
        mem=_parse_word("--mem", mem, _MEMORY, "a number with K, M, G or T; 0 is the whole node"),
        exclusive=exclusive,
        more=parse_more(more),
        lead=lead,
        restarts=restarts,
        preflight=preflight,
    )

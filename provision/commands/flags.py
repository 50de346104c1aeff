"""The commands' flags: which go together, and the task that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from invoke.exceptions import Exit
from invoke.main import program
from invoke.tasks import Task, task

from provision import show
from provision.allowed import require_block
from provision.commands.help_texts import FOR_JOBS, FOR_NODES, with_slurm
from provision.errors import ConfigError
from provision.setting_kinds import Kind, Setting, switch, text
from provision.setting_table import SETTINGS
from provision.settings import Settings, read_settings

#: A command's body: what it answers through, and its settings.
Body = Callable[[show.Answer, Settings], None]

BUILD = (
    "accelerator",
    "ops",
    "arch",
    "toolkit",
    "cpu",
    "torch",
    "version",
    "source",
    "python",
    "jobs",
)
FLEET = ("hosts", "ssh_config", "accept_new", "answer_timeout")
WHEEL = ("wheel", "wheels", "env_source", "env_python", "env_lock")
TRAIN = ("zero", "offload", "deepspeed", "recipe", "set")
MACHINES = ("gpus", "nodes", "gpu_memory", "host_memory")
SHAPE = ("method", "objective", "seq", "batch", "accum", "checkpointing", "attn", "precision")
MEMORY = (*MACHINES, *SHAPE, "lora_rank")
LOCK = ("locked", "lock_file", "allow_drift")
RUN = ("model", "data", "output", "master_addr", "master_port")
SCRIPT = ("script", "include", "exclude", "nproc")
SLURM = (
    "shared",
    "nodes",
    "gpus",
    "time",
    "partition",
    "account",
    "qos",
    "constraint",
    "job_name",
    "cpus_per_task",
    "mem",
    "exclusive",
    "sbatch",
    "lead",
    "restarts",
    "no_preflight",
)
#: Nodes for a command that otherwise asks hosts over SSH.
NODES = ("slurm", "shared", "nodes", "gpus", "time", "account", "qos", "constraint",
         "cpus_per_task", "mem", "exclusive", "sbatch")  # fmt: skip
#: What is said of NODES, where hosts are asked without --slurm; and of train's flags for a job.
ON_NODES = with_slurm([flag for flag in NODES if flag != "slurm"], FOR_NODES)
AS_JOB = {"slurm": "submit the run as a Slurm job"} | with_slurm(
    (*SLURM, "python", "accelerator"), FOR_JOBS
)
LAUNCH = ("code", "launcher", "env", "numa_binding", "print_commands", "detach", "retries",
          "retry_within")  # fmt: skip
LIMITS = ("grace", "grace_after_failure", "lost_after", "start_within")
#: Flags that are no settings: each command line says them anew.
_OF_ONE_LINE = {
    "path": text(help="the .whl file"),
    "folder": text(help="the demo's folder (default: zerofleet-demo/ in the checkout)"),
    "keep": switch(help="keep the demo's hosts up until Ctrl-C"),
    "dry_run": switch(help="read everything, print the plan, change nothing"),
    "json": switch(help="one JSON object on stdout, everything else on stderr"),
}
FLAGS: Mapping[str, Setting] = {**SETTINGS, **_OF_ONE_LINE}


class Command(Task[Any]):
    """An Invoke task, with the few short flags that there are, and help wherever it is asked for.

    Its positions are named below its docstring's first line: Invoke's own usage line omits them.
    """

    def __init__(self, body: Any, **options: Any) -> None:
        super().__init__(body, **options)
        if words := self.usage():
            summary, _, rest = (inspect.getdoc(body) or "").partition("\n\n")
            usage = f"Usage: invoke {self.name.replace('_', '-')} {words} [--options]"
            self.__doc__ = f"{summary}\n\n{usage}\n{rest}"

    def usage(self) -> str:
        """Its positions, as they stand on a command line."""
        return " ".join(name.upper() for name in self.positional)

    def __call__(self, *args: Any, **given: Any) -> Any:
        """Run it, or print its help.

        Where a position or a flag's value is due, Invoke's parser takes ``--help`` to be that:
        https://github.com/pyinvoke/invoke/blob/2.2.1/invoke/parser/parser.py
        """
        if any(value in ("--help", "-h") for value in given.values()):
            program.print_task_help(self.name.replace("_", "-"))
            raise Exit
        return super().__call__(*args, **given)

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """The options of one flag."""
        found: dict[str, Any] = super().arg_opts(name, default, taken_names)
        if name in FLAGS and FLAGS[name].short:
            found["names"] = (*found["names"], FLAGS[name].short)
        return found


def command(
    *flags: str, helps: Mapping[str, str] | None = None, klass: type[Command] = Command
) -> Callable[[Body], Any]:
    """A command with these flags and --json; its body gets an Answer and the Settings.

    ``helps``: what its ``--help`` says of some flags, in place of what their settings say; those
    that it does not have are ignored.
    """

    def decorate(body: Body) -> Any:
        def run(c: Any, **given: Any) -> None:
            json, dry_run = given.pop("json"), given.pop("dry_run", False)
            with show.answer(json=json, dry_run=dry_run) as out:
                _require_values(given, body.__name__.replace("_", "-"))
                require_block(c.config.keys())
                settings = read_settings(c.config.zerofleet, **given)
                body(out, _with_own_config(settings) if settings.deepspeed else settings)

        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [_parameter("c"), *(_parameter(flag) for flag in (*flags, "json"))]
        )
        run.__doc__, name = body.__doc__, body.__name__.replace("_", "-")
        more = {
            "iterable": [flag for flag in flags if FLAGS[flag].kind in (Kind.REPEATED, Kind.PAIRS)],
            "optional": [flag for flag in flags if FLAGS[flag].kind is Kind.OPTIONAL],
            "help": helps_of(*flags, "json", over=helps),
        }
        return task(run, klass=klass, name=name, auto_shortflags=False, **more)

    return decorate


def _parameter(flag: str) -> inspect.Parameter:
    """What Invoke makes a flag, or a position, of: ``False`` a switch, no default a position."""
    setting = FLAGS.get(flag)
    default: Any = None
    if setting is None or setting.position:
        default = inspect.Parameter.empty
    elif setting.kind is Kind.SWITCH:
        default = False
    return inspect.Parameter(flag, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _with_own_config(settings: Settings) -> Settings:
    from provision.launch.own_config import read_into

    return read_into(settings)


def _require_values(given: Mapping[str, Any], name: str) -> None:
    """ConfigError for a flag where a position should be: Invoke takes it for the position."""
    for flag in given:
        if FLAGS[flag].position and str(given.get(flag) or "").startswith("-"):
            raise ConfigError(
                flag.upper(),
                found=given[flag],
                expected=FLAGS[flag].described,
                remedy=f"invoke {name} --help shows what it takes",
            )


def helps_of(*flags: str, over: Mapping[str, str] | None = None) -> dict[str, str]:
    """What ``--help`` says of these flags: what their settings do, or ``over`` it."""
    return {flag: (over or {}).get(flag, FLAGS[flag].described) for flag in flags}

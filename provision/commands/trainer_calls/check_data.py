"""The steps of check-data: data as a run would read it, and what is shown of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provision.commands.trainer_calls.call import apply_called, local, on_first, placed
from provision.errors import ConfigError
from provision.findings import Judge, Level, Report
from provision.fleet import Fleet
from provision.launch.module import ModuleCall
from provision.launch.nodes import trainer_argv
from provision.launch.prepare import read_flags
from provision.launch.recipe import parse_flags
from provision.settings import Settings
from provision.show import Answer


def read_run_flags(s: Settings) -> dict[str, Any]:
    """The trainer's flags that a run would have."""
    return {**read_flags(s), **parse_flags(s.set, "--set")}


def check_call(s: Settings, fleet: Fleet | None, flags: Mapping[str, Any]) -> ModuleCall:
    """``invoke check-data``: the objective, model and ``flags`` that a run would have."""
    flags = dict(flags)
    objective = str(flags.pop("objective", None) or "sft")
    if not s.model:
        raise ConfigError(
            "--model",
            found="nothing",
            expected="a model folder, or a hub name: its tokenizer counts and renders",
            remedy="give --model, or set it in invoke.yaml",
        )
    model = s.model
    if fleet is None and Path(model).expanduser().exists():
        model = local(model)
    ours = {"model_name_or_path": model, "train_file_dir": placed(fleet, "ROWS", str(s.rows))}
    words = trainer_argv({**ours, **flags})
    return on_first(s, fleet).call("trainer.check_data", "--json", objective, *words)


def apply_check(out: Answer, s: Settings) -> None:
    """Have data read as a run would, and show what came of it."""
    flags = read_run_flags(s)
    with apply_called(out, s, lambda _, s, fleet: check_call(s, fleet, flags)) as (working, _):
        found: dict[str, Any] = {}
        while (said := working.read_said()) is not None:
            found = said
    out.add(**{key: value for key, value in found.items() if key != "problems"})
    show_rows(out, found)
    out.report(bad_rows(working.call.host, found, skips=skips_bad(flags)))


def skips_bad(flags: Mapping[str, Any]) -> bool:
    """Whether the run would leave bad rows out."""
    return str(flags.get("skip_bad_rows", False)).lower() in ("true", "1", "yes")


def show_rows(out: Answer, found: Mapping[str, Any]) -> None:
    """Counts, lengths and samples, for a person."""
    formats = ", ".join(f"{count:,} {name}" for name, count in found["formats"].items())
    out.text(f"{found['rows']:,} rows for {found['objective']}: {formats or 'none'}")
    if found["lengths"]:
        words = ", ".join(f"{name} {value:,}" for name, value in found["lengths"].items())
        out.text(f"tokens of a row: {words}; {found['learned']:,} are learned")
    if found["cut"]:
        out.text(f"{found['cut']:,} rows are longer than {found['limit']} tokens: cut there")
    if found["dropped"]:
        out.text(f"{found['dropped']:,} rows have nothing to learn within the length: left out")
    most = max((one["rows"] for one in found["histogram"]), default=1)
    rows = [
        (f"{one['from']}-{one['to']}", f"{one['rows']:,}", "#" * -(-40 * one["rows"] // most))
        for one in found["histogram"]
    ]
    out.table(("tokens", "rows", ""), rows)
    for sample in found["samples"]:
        for text in sample["texts"]:
            name = f", {text['name']}" if text["name"] else ""
            out.text(f"\n{sample['file']}:{sample['line']}{name} (learned: what is in ⟦ ⟧)")
            out.text(
                "".join(f"⟦{p['text']}⟧" if p["learned"] else p["text"] for p in text["pieces"])
            )


def bad_rows(host: str, found: Mapping[str, Any], *, skips: bool) -> Report:
    """Every bad row as a finding. A run that ``skips`` bad rows still stops at a bad file."""
    findings = [
        Judge(host=host)(
            "data",
            Level.WARN if skips and one["line"] else Level.ERROR,
            f"{one['file']}:{one['line']}: {one['found']}",
            str(one["expected"]),
            "correct or remove it (--set skip_bad_rows=true leaves bad rows out)",
        )
        for one in found["problems"]
    ]
    if (rest := found["bad"] - len(findings)) > 0:
        more = replace(findings[-1], found=f"{rest:,} more bad rows", expected="none")
        findings.append(more)
    return Report(findings=tuple(findings))

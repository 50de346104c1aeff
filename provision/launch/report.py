"""A run's folder on the controller → one HTML file: curves, plan, facts, failure.

Everything is inside the file: no script, no font, no address is loaded. All text of hosts is
escaped.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision.launch.plot import Point, bar_chart, line_chart, lines_chart
from provision.launch.record import RunRecord, read_record

#: The report's name in a run's folder.
REPORT = "report.html"
_GB = 1e9
#: What of each rank's pace is drawn: key, title, what it is divided by, unit.
_RANK_CHARTS = (
    ("forward_seconds", "forward pass of each rank, by step", 1.0, " s"),
    ("device_bytes", "GPU memory of each rank (taken by torch)", _GB, " GB"),
    ("host_bytes", "host memory of each rank's process", _GB, " GB"),
)
_STYLE = """
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--soft:#6a737d;--line:#d8dee4;--box:#f6f8fa;
--one:#0b62c4;--bad:#c62f2f;--good:#1a7f37}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--soft:#8d96a0;--line:#30363d;
--box:#161b22;--one:#58a6ff;--bad:#ff7b72;--good:#3fb950}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1180px;
margin:2rem auto;padding:0 1rem}h1{font-size:1.4rem;margin:0}
h2{font-size:1.05rem;margin:2rem 0 .6rem}
.state{font-weight:600}.finished{color:var(--good)}.failed,.lost{color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem}
figure{margin:0;padding:.7rem;border:1px solid var(--line);border-radius:6px}
figcaption{font-weight:600;margin-bottom:.3rem}svg{width:100%;height:auto;display:block}
.t{font-size:11px;fill:var(--soft)}.g{stroke:var(--line);stroke-width:1}
.l{fill:none;stroke:var(--one);stroke-width:1.6}.o{fill:none;stroke:var(--soft);stroke-width:1;
stroke-opacity:.55}.p,.b{fill:var(--one)}.bad{fill:var(--bad)}
table{border-collapse:collapse;display:block;overflow-x:auto}th,td{text-align:left;padding:.25rem
.9rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft)}
pre{background:var(--box);padding:.7rem;border-radius:6px;overflow-x:auto;font-size:12.5px;
white-space:pre-wrap;overflow-wrap:anywhere}
.failure{border-left:4px solid var(--bad);padding-left:1rem}
"""


def apply_report(folder: Path) -> Path:
    """Write the folder's report; its path."""
    path = folder / REPORT
    partial = path.with_name(REPORT + ".partial")
    partial.write_text(render_report(read_record(folder)), encoding="utf-8")
    partial.replace(path)
    return path


def charts(record: RunRecord) -> list[str]:
    """The plots that the run left something for."""
    metrics = record.metrics
    steps = [m for m in metrics if m.get("event") == "step" and "step" in m]
    evals = [(m["step"], m.get("loss")) for m in metrics if m.get("event") == "eval"]
    begin = next((m for m in metrics if m.get("event") == "begin"), None)
    made = [
        line_chart("loss", [(m["step"], m.get("loss")) for m in steps]),
        line_chart("evaluation loss", evals),
        line_chart("learning rate", _known(steps, "lr")),
        line_chart("gradient norm", _known(steps, "grad_norm")),
        line_chart("tokens a second, all ranks", _rates(steps, begin)),
        line_chart("seconds a step", _seconds(steps, begin), " s"),
    ]
    made += [
        lines_chart(title, _by_rank(record.paces, key, size), unit)
        for key, title, size, unit in _RANK_CHARTS
    ]
    end = next((m for m in metrics if m.get("event") == "end"), {})
    for key, title in (
        ("peak_reserved_bytes", "peak GPU memory of each rank (reserved by torch)"),
        ("peak_host_bytes", "peak host memory of each rank's process"),
    ):
        ranks = [r for r in end.get("ranks") or () if r.get(key) is not None]
        bars = [(f"rank {r['rank']}", r[key] / _GB) for r in ranks]
        made.append(bar_chart(title, bars, " GB"))
    return [chart for chart in made if chart]


def _by_rank(
    paces: Mapping[int, Sequence[Mapping[str, Any]]], key: str, size: float
) -> dict[str, list[Point]]:
    """The points of each rank that has any."""
    lines = {
        f"rank {rank}": [(m["step"], m[key] / size) for m in found if m.get(key) and "step" in m]
        for rank, found in paces.items()
    }
    return {name: points for name, points in lines.items() if points}


def _known(steps: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    return [(m["step"], m[key]) for m in steps if m.get(key) is not None]


def _pairs(
    steps: Sequence[Mapping[str, Any]], begin: Mapping[str, Any] | None
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each step with the one before; the first with the beginning."""
    first = [{**begin, "step": begin.get("first_step", 0), "tokens": 0}] if begin else []
    return [
        (before, step)
        for before, step in zip([*first, *steps], [*first, *steps][1:], strict=False)
        if step["at"] > before["at"] and step["step"] > before["step"]
    ]


def _rates(steps: Sequence[Mapping[str, Any]], begin: Mapping[str, Any] | None) -> list[Point]:
    return [
        (step["step"], (step["tokens"] - before["tokens"]) / (step["at"] - before["at"]))
        for before, step in _pairs(steps, begin)
        if step.get("tokens") is not None and before.get("tokens") is not None
    ]


def _seconds(steps: Sequence[Mapping[str, Any]], begin: Mapping[str, Any] | None) -> list[Point]:
    return [
        (step["step"], (step["at"] - before["at"]) / (step["step"] - before["step"]))
        for before, step in _pairs(steps, begin)
    ]


def render_report(record: RunRecord) -> str:
    """The HTML."""
    outcome = record.outcome
    state = outcome.state if outcome else "unknown"
    drawn = charts(record)
    first = outcome.first_failure if outcome else None
    parts = [
        f"<h1>{html.escape(record.run)}</h1>",
        f'<p class="state {html.escape(state)}">{html.escape(state + _summary(record))}</p>',
    ]
    if first:
        lines = "\n".join(first.lines)
        parts.append(
            f'<section class="failure"><h2>First failure</h2><p>{html.escape(str(first))}</p>'
            f"{f'<pre>{html.escape(lines)}</pre>' if lines else ''}</section>"
        )
    if drawn:
        parts.append(f'<h2>Training</h2><div class="charts">{"".join(drawn)}</div>')
    if outcome:
        rows: list[tuple[object, ...]] = [
            (r.rank, r.host, r.state, "" if r.exit is None else r.exit) for r in outcome.ranks
        ]
        rows += [("?", host, "lost", reason) for host, reason in outcome.lost.items()]
        parts.append("<h2>Ranks</h2>" + table(("rank", "host", "state", "exit"), rows))
    parts.append("<h2>Plan</h2>" + _plan(record))
    if facts := record.kept.get("facts"):
        parts.append("<h2>Hosts</h2>" + table(facts["columns"], facts["rows"]))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(record.run)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _summary(record: RunRecord) -> str:
    """What was run, how long, and what it came to, on one line."""
    plans, outcome = record.plans.values(), record.outcome
    nnodes = max(int(plan.get("nnodes") or 1) for plan in plans)
    hosts = f"{len(plans)} of {nnodes} hosts" if nnodes > len(plans) else f"{len(plans)} hosts"
    parts = [f"{hosts}, {sum(int(p['nproc_per_node']) for p in plans)} ranks"]
    begin = next((m for m in record.metrics if m.get("event") == "begin"), None)
    if begin:
        zero = begin.get("zero_stage")
        parts.append(f"ZeRO-{zero}" if zero else "no ZeRO")
        parts.append(f"stepped by {begin.get('optimizer')}")
    if outcome and outcome.seconds is not None:
        parts.append(f"{outcome.seconds:,.0f} s")
    if outcome and outcome.loss:
        parts.append(f"loss {outcome.loss[0]:.4g} → {outcome.loss[1]:.4g}")
    return " · " + " · ".join(parts)


def _plan(record: RunRecord) -> str:
    """Each node's environment and command, as the supervisor there was given them."""
    blocks = []
    for host, plan in record.plans.items():
        environ = "\n".join(f"{k}={v}" for k, v in sorted(plan["environ"].items()))
        text = f"# {host}: node_rank {plan['node_rank']}\n{environ}\n{shlex.join(plan['argv'])}"
        blocks.append(f"<pre>{html.escape(text)}</pre>")
    return "".join(blocks)


def table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; every cell escaped."""

    def line(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"

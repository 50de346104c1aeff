"""What a command says: one JSON object on stdout, one line an error, the right exit code."""

from __future__ import annotations

import io
import json
import sys

import pytest

from provision import show
from provision.errors import BuildError, ConfigError
from provision.findings import SSH, Finding, Level, Report
from provision.hosts.summary import summarize
from provision.steps import Phase, Plan, Run, Step

PLAN = Plan(
    title="deploy x",
    phases=(Phase(name="push", steps=(Step(host="a", do=Run(argv=("true",)), why="y"),)),),
)


def finding(level: Level, host: str = "node1", subject: str = "driver") -> Finding:
    return Finding(
        host=host, subject=subject, level=level, found="535", expected="580", remedy="upgrade it"
    )


def run(body, capsys, *, json_out=True, dry_run=False):
    """(exit code, stdout, stderr) of a command whose body this is."""
    code = 0
    try:
        with show.answer(json=json_out, dry_run=dry_run) as out:
            body(out)
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_command_that_did_its_work_has_ok_and_exit(capsys):
    code, out, _ = run(lambda out: out.add(hosts={}), capsys)
    assert (code, json.loads(out)) == (0, {"ok": True, "exit": 0, "hosts": {}})


def fail(error):
    def body(_):
        raise error

    return body


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (BuildError, 4)])
def test_an_error_is_one_line_one_object_and_its_exit_code(capsys, kind, code):
    error = kind("--zero", found="4", expected="1, 2 or 3", remedy="choose one")
    exited, out, err = run(fail(error), capsys)
    assert exited == code
    assert json.loads(out) == {
        "ok": False,
        "exit": code,
        "error": {
            "what": "--zero",
            "found": "4",
            "expected": "1, 2 or 3",
            "remedy": "choose one",
        },
    }
    assert err == "error: --zero: found 4, expected 1, 2 or 3: choose one\n"


def test_ctrl_c_is_130(capsys):
    code, out, err = run(fail(KeyboardInterrupt()), capsys)
    assert (code, json.loads(out)["exit"]) == (130, 130)
    assert "Traceback" not in err


def test_a_closed_stdout_is_no_fault(monkeypatch):
    """As ``invoke memory >&-``, where Python has no sys.stdout at all."""
    monkeypatch.setattr(sys, "stdout", None)
    with show.answer(json=False) as out:
        out.table(("a",), [("1",)])
        out.text("b")


def test_no_table_of_nothing(capsys):
    """Where no host answered, a head of columns says no more."""
    assert run(lambda out: out.summary(summarize({})), capsys, json_out=False)[1] == ""


def test_a_programming_error_is_not_hidden(capsys):
    with pytest.raises(ZeroDivisionError), show.answer(json=True):
        1 / 0  # noqa: B018


def test_equal_findings_of_two_hosts_are_one_line_and_two_rows(capsys):
    report = Report(findings=(finding(Level.ERROR), finding(Level.ERROR, "node2")))
    code, out, err = run(lambda o: o.report(report), capsys)
    assert code == 1
    assert len(json.loads(out)["findings"]) == 2
    assert err == "error: node1,node2: driver: found 535, expected 580: upgrade it\n"


def test_what_only_warns_does_not_fail(capsys):
    report = Report(findings=(finding(Level.WARN),))
    code, out, err = run(lambda o: o.require(report), capsys)
    assert (code, err) == (0, "warn: node1: driver: found 535, expected 580: upgrade it\n")
    assert json.loads(out)["ok"] is True


def test_require_ends_the_command(capsys):
    def body(out):
        out.require(Report(findings=(finding(Level.ERROR, subject=SSH),)))
        pytest.fail("the command went on")

    assert run(body, capsys)[0] == 3


def test_nothing_is_called_ok_where_a_host_was_not_asked(capsys):
    def body(out):
        out.report(Report(findings=(finding(Level.ERROR, subject=SSH),)))
        out.report(Report(findings=(finding(Level.OK),)), full=True)

    code, shown, _ = run(body, capsys, json_out=False)
    assert code == 3
    assert "none of them fails" not in shown
    shown = run(lambda o: o.report(Report(), full=True), capsys, json_out=False)[1]
    assert "ok: 0 findings, none of them fails" in shown


def test_two_reports_are_both_in_the_object_and_the_first_failure_decides(capsys):
    def body(out):
        out.report(Report(findings=(finding(Level.ERROR, subject=SSH),)))
        out.report(Report(findings=(finding(Level.ERROR),)))

    code, out, _ = run(body, capsys)
    assert code == 3
    assert len(json.loads(out)["findings"]) == 2


def test_a_dry_run_shows_the_plan_and_ends(capsys):
    def body(out):
        out.plan(PLAN)
        pytest.fail("the plan was about to be applied")

    code, out, _ = run(body, capsys, dry_run=True)
    assert code == 0
    assert json.loads(out)["plan"] == PLAN.as_json()
    assert run(body, capsys, json_out=False, dry_run=True)[1] == f"{PLAN}\n"


def test_a_table_and_text_stay_off_stdout_with_json(capsys):
    def body(out):
        out.table(("host",), [("node1",)])
        out.text("hello")
        out.say("progress")

    _, out, err = run(body, capsys)
    assert json.loads(out) == {"ok": True, "exit": 0}
    assert err == "progress\n"
    _, out, _ = run(body, capsys, json_out=False)
    assert "node1" in out
    assert "hello" in out


def test_a_host_named_like_markup_is_shown_as_it_is(capsys, make_facts):
    def body(out):
        out.summary(summarize({"[bold]node": make_facts("[bold]node")}))

    assert "[bold]node" in run(body, capsys, json_out=False)[1]


def test_escape_sequences_of_a_host_are_shown_and_not_obeyed(capsys):
    odd = Finding(
        host="node1",
        subject="os",
        level=Level.ERROR,
        found="\x1b]0;title\x07\x1b[2J\u202e\udcff",
        expected="a\rb",
        remedy="多 →\x9b31m",
    )

    def body(out):
        out.report(Report(findings=(odd,)), full=True)
        out.table(("host",), [("\x1b[31mnode1",)])
        out.text("line\x1b[1A\n\tnext")
        out.say("[node1] \x1b[?1049h")

    _, shown, said = run(body, capsys, json_out=False)
    for text in (shown, said):
        assert not [c for c in text if not c.isprintable() and c not in "\n\t"]
        assert r"\x1b]0;title\x07\x1b[2J\u202e\udcff" in text
        assert "多 →" in text
    assert "line\\x1b[1A\n" in shown
    code, out, _ = run(body, capsys)
    assert code == 1
    assert json.loads(out)["findings"][0]["found"] == odd.found
    assert out.isascii()


def test_a_terminal_without_unicode_is_shown_what_it_can(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with show.answer(json=False) as out:
        out.text("570.1 → 580.2")
        out.table(("host",), [("nœud1",)])
    sys.stdout.flush()
    assert b"570.1 \\u2192 580.2\n" in raw.getvalue()
    assert b"n\\u0153ud1" in raw.getvalue()

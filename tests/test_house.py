"""The house rules of ARCHITECTURE.md, as tests: who imports whom, how long, what never appears."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from provision.script import read_onhost

ROOT = Path(__file__).resolve().parent.parent

#: Values and facts of the whole house. They import nothing but one another.
SHARED = {
    "errors",
    "findings",
    "steps",
    "script",
    "compat",
    "places",
    "allowed",
    "settings",
    "setting_kinds",
    "setting_table",
    "numbers",
    "inventory",
    "names",
    "talk",
    "process",
    "files",
}
STAGES = {
    "wheel",
    "build",
    "hosts",
    "push",
    "deploy",
    "memory",
    "preflight",
    "launch",
    "slurm",
    "demo",
}
#: What tasks.py is made of: it sees every room, and only tasks.py sees it.
COMMANDS = "commands"
#: What a stage may read of another: the one way that data goes.
EDGES = {
    "wheel": set(),
    "build": {"wheel"},
    "hosts": {"wheel"},  # parity and lock hold hosts against one
    "push": set(),  # steps, whoever planned them
    "deploy": {"wheel", "hosts"},
    "preflight": {"hosts"},
    "memory": {"hosts", "preflight"},  # GPUs and memory; the model's config as a host answered
    "launch": {"hosts", "preflight"},  # interfaces and addresses
    "slurm": {"launch"},  # the same plan, as a job
    "demo": set(),  # it types the user's commands
}
#: Third-party packages that one module only may import.
ONLY_IN = {
    "fabric": {"provision.remote"},
    "paramiko": {"provision.remote"},
    "rich": {"provision.show"},
    "asyncssh": {"provision.demo.sshd"},
    "cryptography": {"provision.push.certificate"},
    "torch": set(),
    "transformers": set(),
    "deepspeed": set(),
}
#: Run by a deployed environment's Python, which has them; all other onhost files: stdlib only.
PROVES = {
    "provision.onhost.prove": {"torch", "deepspeed"},
    "provision.onhost.allreduce": {"torch"},
    "provision.onhost.node_checks": {"torch"},
    "provision.onhost.waiting": {"torch"},
}
MAX_FILE, MAX_FUNCTION, MAX_TASK = 300, 45, 10


@cache
def tracked() -> tuple[Path, ...]:
    """Every text file of the project that git knows, or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(f for f in files if f.is_file() and b"\0" not in f.read_bytes()[:8192])


def sources(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Every module imported, lazily too; ``from provision import x`` counts as provision.x."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            inner = node.module.split(".")[0] in ("provision", "trainer")
            packages = inner and (ROOT / node.module.replace(".", "/")).is_dir()
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= set(names) if packages else {node.module}
    return found


def body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, docstring excluded."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    end = function.end_lineno or 0
    return end - statements[0].lineno + 1 if statements else 0


def lazy(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the imports that a function begins with, the blank one behind them included."""
    inner = [n for n in function.body if isinstance(n, ast.Import | ast.ImportFrom)]
    return sum((n.end_lineno or 0) - n.lineno + 1 for n in inner) + bool(inner)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def strings(path: Path) -> Iterator[str]:
    """String constants that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree(path))
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None
        if isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


PROVISION = sources("provision")
ONHOST = [p for p in PROVISION if p.parent.name == "onhost"]
CONTROLLER = [p for p in PROVISION if p not in ONHOST]
OURS = [*PROVISION, *sources("trainer")]


@pytest.mark.parametrize("path", CONTROLLER, ids=module)
def test_import_edges(path: Path) -> None:
    name = module(path).removeprefix("provision").lstrip(".")
    stage = name.split(".")[0]
    for imported in imports(path):
        if not imported.startswith("provision."):
            continue
        target = imported.removeprefix("provision.")
        top = target.split(".")[0]
        if top in SHARED or (top == stage and stage in STAGES) or stage == COMMANDS:
            continue
        if stage in SHARED:
            pytest.fail(f"{name} is shared and imports {target}")
        if top == "show":
            pytest.fail(f"{name} imports show: only tasks.py shows")
        if (name, top) in (("fleet", "remote"), ("fleet", "session"), ("session", "remote")):
            continue
        if top in ("session", "fleet"):
            acts = {f.name.split("_")[0] for f in functions(path)} & {"gather", "read", "apply"}
            assert acts, f"{name} talks to hosts, but has no gather_, read_ or apply_ function"
        elif name == "show":
            assert top in STAGES, f"show imports {target}"  # it draws their values
        else:
            allowed = EDGES.get(stage, set())
            assert {top, ".".join(target.split(".")[:2])} & allowed, f"{name} imports {target}"


@pytest.mark.parametrize("path", CONTROLLER, ids=module)
def test_packages_that_have_their_place(path: Path) -> None:
    for imported in imports(path):
        places = ONLY_IN.get(imported.split(".")[0])
        assert places is None or module(path) in places, f"imports {imported}"


@pytest.mark.parametrize("path", ONHOST, ids=module)
def test_onhost_files_need_no_more_than_travels_with_them(path: Path) -> None:
    ours = {name for name in imports(path) if name.split(".")[0] == "provision"}
    assert ours <= {module(part) for part in ONHOST}
    sent = read_onhost(path.stem)
    assert not [
        name for name in ours if f"('{name.removeprefix('provision.onhost.')}', " not in sent
    ]
    others = {name.split(".")[0] for name in imports(path) - ours}
    assert not others - sys.stdlib_module_names - PROVES.get(module(path), set())
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", OURS, ids=module)
def test_provision_and_trainer_never_meet(path: Path) -> None:
    other = {"provision": "trainer", "trainer": "provision"}[path.relative_to(ROOT).parts[0]]
    assert not {name for name in imports(path) if name.split(".")[0] == other}


@pytest.mark.parametrize("path", OURS, ids=module)
def test_names(path: Path) -> None:
    vague = {"util", "utils", "common", "helper", "helpers", "misc", "core", "base", "manager"}
    assert path.stem not in vague
    classes = [n.name for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)]
    assert not [c for c in classes if c.endswith(("Manager", "Handler", "Helper", "Util"))]


@pytest.mark.parametrize("path", CONTROLLER, ids=module)
def test_a_remedy_names_what_to_do(path: Path) -> None:
    vague = re.compile(r"(correct it|see why|again|say which|fix it)\Z")
    remedies = [
        keyword.value.value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "remedy" and isinstance(keyword.value, ast.Constant)
    ]
    assert not [remedy for remedy in remedies if vague.match(remedy)]


@pytest.mark.parametrize("path", OURS, ids=module)
def test_length(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE
    long = {f.name: body(f) for f in functions(path) if body(f) > MAX_FUNCTION}
    assert not long


def test_no_test_is_left_out(pytestconfig: pytest.Config) -> None:
    """pytest goes past folders of some names (``build``) without a word."""
    left_out = pytestconfig.getini("norecursedirs")
    folders = {part for p in sources("tests") for part in p.relative_to(ROOT).parts[:-1]}
    assert not [f for f in folders for pattern in left_out if fnmatch(f, pattern)]


def test_tasks_are_thin() -> None:
    path = ROOT / "tasks.py"
    tasks = [f for f in functions(path) if f.decorator_list]
    assert len(tasks) > 3
    lines = {f.name: body(f) - lazy(f) for f in tasks}
    assert not {name: count for name, count in lines.items() if count > MAX_TASK}
    assert not [f.name for f in tasks if not ast.get_docstring(f)]
    assert not {name for name in imports(path) if name.split(".")[0] == "trainer"}


@pytest.mark.parametrize("path", sources("provision/commands"), ids=module)
def test_tasks_have_their_place(path: Path) -> None:
    tasks = [f.name for f in functions(path) for d in f.decorator_list if "command" in ast.dump(d)]
    ours = path.stem == "tasks"
    assert bool(tasks) == ours
    if ours:
        listed = importlib.import_module(module(path)).TASKS
        assert [one.name for one in listed] == [name.replace("_", "-") for name in tasks]


@pytest.mark.parametrize("path", [*OURS, *sources("locks"), ROOT / "tasks.py"], ids=module)
def test_no_shell_and_no_killing_by_name(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg == "shell":
            assert isinstance(node.value, ast.Constant)
            assert not node.value.value
    assert not [s for s in strings(path) if re.search(r"\b(pkill|killall|pgrep)\b", s)]


def test_tracked_files_know_no_machine() -> None:
    registry = "|".join(
        ["py" + r"pi\.", "python" + "hosted", "download.py" + "torch", "/sim" + "ple/"]
    )
    nobody = r"(?!(?:you|me|user|ubuntu|ml|[a-z])\b)"
    machine = rf"(?<![\w.])/(?:root|work|workspace)/\w|/(?:home|Users)/{nobody}\w"
    for path in tracked():
        text = path.read_text(errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
            assert not re.search(rf"https?://\S*(?:{registry})", line), f"registry: {where}"
            assert path == Path(__file__) or not re.search(machine, line), f"machine: {where}"

"""What a result says of itself: its recipe, versions, data and figures, beside the weights.

``recipe.yaml`` gives the same training again (``--recipe``), ``training.json`` is for programs and
README.md for people: a model card as hubs show it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

#: Packages whose version can change what comes out.
PACKAGES = (
    *("torch", "deepspeed", "transformers", "peft"),
    *("trl", "accelerate", "datasets", "tokenizers"),
)
#: Flags that say where a run was, not what it was.
PLACES = (
    "model_name_or_path",
    "train_file_dir",
    "output_dir",
    "deepspeed",
    "resume_from_checkpoint",
)


def parse_given(argv: Sequence[str]) -> dict[str, list[str]]:
    """Flag → its words, of a command line. Pure."""
    given: dict[str, list[str]] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            given[name] = [value] if equals else []
        elif name:
            given[name].append(word)
    return given


def render_recipe(given: Mapping[str, Sequence[str]]) -> str:
    """The flags as a recipe; those that name places are the launcher's. Pure."""
    lines = ["# The flags of this training, as they were given. Defaults are not listed."]
    for name, words in sorted(given.items()):
        if name not in PLACES:
            values = [_scalar(word) for word in words] or ["true"]
            lines.append(
                f"{name}: " + (values[0] if len(values) == 1 else f"[{', '.join(values)}]")
            )
    return "\n".join(lines) + "\n"


def _scalar(word: str) -> str:
    """A word as YAML reads it back: numbers and booleans as they are, all else in quotes."""
    try:
        plain = isinstance(json.loads(word), int | float)
    except ValueError:
        plain = False
    return word if plain else json.dumps(word, ensure_ascii=False)


def read_versions() -> dict[str, str]:
    """Versions of Python and of the packages that are here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_digest(paths: str) -> dict[str, str]:
    """By file, sha256 of the data. Names on a hub stand for themselves."""
    digests = {}
    for part in filter(None, (part.strip() for part in paths.split(","))):
        path = Path(part)
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                with file.open("rb") as stream:
                    digests[str(file)] = hashlib.file_digest(stream, "sha256").hexdigest()
            else:
                digests[part] = "not a file of this host"
    return digests


def render_card(record: Mapping[str, Any], recipe: str) -> str:
    """README.md. Pure."""
    base, adapter = record["base"], record["adapter"]
    front = [
        "---",
        f"base_model: {json.dumps(base)}",
        "library_name: " + ("peft" if adapter else "transformers"),
    ]
    rows = [f"| {name} | {_figure(value)} |" for name, value in record["metrics"].items()]
    data = [f"- `{Path(name).name}` sha256 `{digest}`" for name, digest in record["data"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join(
        [
            *front, "---", "",
            f"# {'LoRA adapter for' if adapter else 'Fine-tuned from'} {base}", "",
            "| figure | value |", "|---|---|", *rows, "",
            "## Data", "", *data, "",
            "## Recipe", "", "```yaml", recipe.rstrip(), "```", "",
            "## Versions", "", versions, "",
        ]
    )  # fmt: skip


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_card(output: Path, argv: Sequence[str], metrics: Mapping[str, Any]) -> None:
    """recipe.yaml, training.json and README.md into ``output``. One rank calls this."""
    given = parse_given(argv)
    record = {
        "base": " ".join(given.get("model_name_or_path", ["unknown"])),
        "adapter": (output / "adapter_config.json").is_file(),
        "metrics": dict(metrics),
        "data": read_digest(" ".join(given.get("train_file_dir", []))),
        "versions": read_versions(),
        "flags": given,
    }
    recipe = render_recipe(given)
    (output / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (output / "README.md").write_text(render_card(record, recipe), encoding="utf-8")

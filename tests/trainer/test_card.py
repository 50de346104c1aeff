"""trainer/card.py: a result says how it came about, and its recipe gives the same flags again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from trainer.card import parse_given, write_card

FLAGS = ["--learning_rate", "2e-5", "--use_peft", "true", "--save-strategy=no", "--seed", "7"]


def as_words(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_result_has_recipe_versions_data_and_figures(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    out.mkdir()
    (data / "rows.jsonl").write_text("{}\n")
    places = ["--model_name_or_path", "/models/base", "--train_file_dir", str(data)]
    write_card(
        out, [*places, "--output_dir", str(out), *FLAGS], {"loss_last": 0.123456, "steps": 4}
    )
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    # The launcher passes a recipe on as words: they have to be the same again.
    assert {name: [as_words(value)] for name, value in recipe.items()} == parse_given(FLAGS)
    record = json.loads((out / "training.json").read_text())
    assert record["data"] == {str(data / "rows.jsonl"): hashlib.sha256(b"{}\n").hexdigest()}
    assert record["versions"]["torch"]
    assert record["adapter"] is False
    card = (out / "README.md").read_text()
    assert card.startswith('---\nbase_model: "/models/base"\nlibrary_name: transformers\n---\n')
    assert "| loss_last | 0.1235 |" in card
    assert "| steps | 4 |" in card

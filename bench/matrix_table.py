"""What bench.matrix found, as tables of Markdown.

PYTHON -m bench.matrix --json > cells.jsonl
python -m bench.matrix_table < cells.jsonl           # largest differences, by group
python -m bench.matrix_table --all < cells.jsonl     # every cell
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

FIGURES = ("split", "resumed", "reload", "curve")
#: How the words of a cell's name are shown, in this order.
SHOWN = {
    "sft": "SFT", "orpo": "ORPO", "pretrain": "pretraining", "full": "full", "lora": "LoRA",
    "fp32": "fp32", "bf16": "bf16", "zero0": "none",
}  # fmt: skip
ZERO, OFFLOADED = "1, 2, 3", "1, 2, 3 offloaded"


def read_cells(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Figures by cell; the last one counts where a cell is there twice."""
    found = (json.loads(line) for line in lines if line.startswith('{"case"'))
    return {cell["case"]: cell for cell in found}


def group(name: str) -> tuple[str, ...]:
    """The thinned table's row that a cell belongs to: its ZeRO stages and recomputation apart."""
    objective, zero, trained, precision, _ = name.split(",")
    stages = zero if zero == "zero0" else OFFLOADED if "offload" in zero else ZERO
    return objective, trained, precision, stages


def figure(value: float | None) -> str:
    """A difference, short."""
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def thinned(cells: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each group: how many of its cells hold, and the largest of each difference."""
    order = [*SHOWN, ZERO, OFFLOADED]
    groups = sorted({group(name) for name in cells}, key=lambda words: [*map(order.index, words)])
    yield ["objective", "trained", "precision", "ZeRO", "hold", *FIGURES]
    for words in groups:
        own = [cell for name, cell in cells.items() if group(name) == words]
        hold = sum(not cell["wrong"] for cell in own)
        most = (max((c[key] for c in own if key in c), default=None) for key in FIGURES)
        named = [SHOWN.get(word, word) for word in words]
        yield [*named, f"{hold} of {len(own)}", *map(figure, most)]


def whole(cells: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each cell."""
    yield ["objective", "ZeRO", "trained", "precision", "activations", *FIGURES, "loss fell", ""]
    for name, cell in cells.items():
        figures = [figure(cell.get(key)) for key in FIGURES]
        fell = f"{cell['fell']:.2f}" if "fell" in cell else ""
        yield [*name.split(","), *figures, fell, "; ".join(cell["wrong"]) or "holds"]


def main() -> None:
    """Print one of the tables; exit 1 where a cell does not hold, or there is none."""
    cells = read_cells(sys.stdin)
    rows = list((whole if "--all" in sys.argv[1:] else thinned)(cells))
    for number, row in enumerate(rows):
        print(f"| {' | '.join(row)} |")
        if number == 0:
            print("|---" * len(row) + "|")
    hold = sum(not cell["wrong"] for cell in cells.values())
    print(f"\n{hold} of {len(cells)} cells hold.")
    sys.exit(0 if cells and hold == len(cells) else 1)


if __name__ == "__main__":
    main()

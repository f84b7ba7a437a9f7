"""Write the tables of all bases and layers into kan-core's README, from the classes themselves.

    uv run scripts/family_table.py           # write
    uv run scripts/family_table.py --check   # exit 1 when the README differs

Equation, reference and avoided defect are the paragraphs of each class's docstring that begin with those words.
Parameters and FLOPs are those of a layer of 64 inputs and 64 outputs without a bias, divided by its 64 x 64 edges.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from kan_core import bases, layers
from kan_core.bases._base import REGISTRY as BASES
from kan_core.compare import count_flops, count_parameters
from kan_core.layers._registry import REGISTRY as LAYERS

README = Path(__file__).parents[1] / "packages" / "kan-core" / "README.md"
SIZE = 64
MARK = re.compile(r"(<!-- families:begin -->\n).*?(<!-- families:end -->)", re.DOTALL)


def facts(factory: Callable[..., Any]) -> tuple[str, str, str]:
    """Equation, reference and avoided defect, from the docstring.

    Raises:
        ValueError: When one of the three paragraphs is missing.
    """
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(factory) or "")
    found = []
    for word in ("Equation", "Reference", "Avoids"):
        texts = [p.partition(":")[2] for p in paragraphs if p.startswith(f"{word}:")]
        if len(texts) != 1:
            raise ValueError(f"{factory!r}: the docstring needs one paragraph that begins with '{word}:'")
        found.append(" ".join(texts[0].split()).replace("|", "\\|"))
    return found[0], found[1], found[2]


def per_edge(name: str) -> tuple[str, str]:
    """Trainable parameters and FLOPs of one more row of the layer called `name`, per edge."""
    factory = layers.get(name)
    takes_bias = "bias" in inspect.signature(factory).parameters
    layer = factory(SIZE, SIZE, **({"bias": False} if takes_bias else {})).eval()
    edges = SIZE * SIZE
    one, two = (count_flops(layer, torch.zeros(rows, SIZE)) for rows in (1, 2))
    return f"{count_parameters(layer) / edges:.3g}", f"{(two - one) / edges:.3g}"


def rows(names: Iterable[str], registry: Any) -> Iterable[str]:
    """One line of Markdown for every name."""
    for name in names:
        if registry.factory(name).__module__.startswith("kan_core."):
            equation, reference, avoids = facts(registry.factory(name))
            parameters, flops = per_edge(name)
            yield f"| `{name}` | {equation} | {parameters} | {flops} | {reference} | {avoids} |"


def tables() -> str:
    """Both tables, in Markdown."""
    head = "| parameters per edge | FLOPs per edge | paper | what the reference gets wrong, and this does not |\n"
    line = "|---|---|---|---|---|---|\n"
    return (
        f"\nBases, each in `KANLinear` with its SiLU base branch:\n\n| name | functions {head}{line}"
        + "\n".join(rows(bases.names(), BASES))
        + f"\n\nLayers of another form:\n\n| name | layer {head}{line}"
        + "\n".join(rows(LAYERS.names(), LAYERS))
        + "\n\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the README is not up to date")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    before = README.read_text()
    after = MARK.sub(lambda match: match[1] + tables() + match[2], before)
    if after == before:
        return 0
    if options.check:
        print(f"{README.name} is not up to date: run scripts/family_table.py", file=sys.stderr)
        return 1
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes docs/models.md: the catalog, and what every entry passed.

    python -m tests.contract.models_page

runs the contract of the catalog over all entries (minutes) and writes the page of its outcome.
"""

import pathlib
import re
import sys

import pytest

from kvision.models.catalog import CATALOG

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "models.md"
# Test -> what its column says, and what stands there.
CHECKS = {
    "test_the_published_parameters": "counts",
    "test_it_learns_a_batch": "learns",
    "test_every_weight_gets_a_gradient": "gradients",
    "test_it_is_saved_and_made_again": "saved",
    "test_it_is_exported[native-{}]": "native",
    "test_it_is_exported[portable-{}]": "portable",
    "test_mixed_precision": "bfloat16",
    "test_it_trains_under_xla": "XLA",
    "test_sizes": "sizes",
    "test_an_image_that_is_too_small": "refusals",
}
_HEAD = """# Models

`kvision.create(name)` makes the published network with random weights, `kvision.create(name,
num_classes=11, ...)` one with other arguments; `kvision.list_models(task)` lists the names. This
page is made from `kvision/models/catalog.py` by `python -m tests.contract.models_page`, which runs
the contract of the catalog (`tests/contract/test_catalog.py`) over every entry.

Parameters are those of the published network, trainable and (statistics of normalisations, frozen
layers, counters) others. The checks, on a narrow network of the same structure:

- **counts**: the published network has these parameters, to the last one;
- **learns**: its documented loss on a batch of digit scenes falls by half within 40 steps;
- **gradients**: every weight gets a finite gradient above 1e-5 of the largest, but for those below;
- **saved**: `.keras` files and configurations give a model of equal outputs;
- **native**, **portable**: the SavedModel gives the live model's answers in a fresh process;
- **bfloat16**: outputs and weights are float32 under `mixed_bfloat16`, and it trains;
- **XLA**: it trains under `jit_compile=True`;
- **sizes**: one image, odd sizes, the smallest image; **refusals**: a smaller one is refused.
"""


class _Outcomes:
    """Plugin that keeps the outcome of every test."""

    def __init__(self):
        self.of = {}

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.partition("::")[2]
        if report.when == "call" or report.outcome != "passed":
            self.of[name] = report.outcome


def rows(outcomes=None):
    """The rows of the tables, by task; without outcomes, without the checks."""
    tables = {}
    for name, entry in CATALOG.items():
        trainable, others = entry.parameters
        row = [f"`{name}`", entry.paper, f"{trainable:,}", f"{others:,}"]
        for check in CHECKS if outcomes is not None else ():
            test = check.format(name) if "{}" in check else f"{check}[{name}]"
            row.append({"passed": "✓", "skipped": "–"}.get(outcomes.get(test), "✗"))
        tables.setdefault(entry.task, []).append("| " + " | ".join(row) + " |")
    return tables


def _page(outcomes):
    head = ["name", "source", "trainable", "others", *CHECKS.values()]
    parts = [_HEAD]
    for task, lines in rows(outcomes).items():
        table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines]
        parts.append(f"## {task.capitalize()}\n\n" + "\n".join(table) + "\n")
    notes = [
        f"- `{name}`: no gradient to `{part}`: {reason}."
        for name, entry in CATALOG.items()
        for part, reason in entry.no_gradient.items()
    ]
    notes += [f"- `{name}`: no XLA: {e.no_jit}." for name, e in CATALOG.items() if e.no_jit]
    parts.append("## Exceptions\n\n" + "\n".join(notes) + "\n")
    return "\n".join(parts)


def main():
    """Runs the contract and writes the page; ends with pytest's exit code."""
    plugin = _Outcomes()
    tests = pathlib.Path(__file__).with_name("test_catalog.py")
    options = ["-q", "-m", "", "-k", "not the_page", "-p", "no:cacheprovider"]
    code = pytest.main([*options, str(tests)], plugins=[plugin])
    outcomes = {re.sub(r"^.*::", "", name): outcome for name, outcome in plugin.of.items()}
    PAGE.write_text(_page(outcomes))
    print(f"wrote {PAGE}")
    sys.exit(code)


if __name__ == "__main__":
    main()

"""docs/design.md: the keys it lists are those that are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from levelhead import Recipe, audit, calibrate, compare, decide, judge, train, versus
from worlds import sampled

DOCS = Path(__file__).parents[1] / "docs"


def listed(name: str) -> list[str]:
    """The keys under a heading: the line that holds nothing else."""
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    section = text.split(f"\n### {name}\n")[1].split("\n### ")[0]
    (line,) = (line for line in section.splitlines() if re.fullmatch(r"(`\w+` ?){4,}", line))
    return re.findall(r"`(\w+)`", line)


@pytest.mark.parametrize("name", ["judge", "audit", "calibrate", "decide", "versus"])
def test_keys_of_judgements(name: str) -> None:
    """Who reads findings.json by the docs would miss a key, or look for one that is gone."""
    validation, test = sampled(200, 4, 2.0), sampled(200, 4, 2.0, seed=1)
    results: dict[str, Any] = {
        "judge": lambda: judge(test, resamples=50),
        "audit": lambda: audit(test, methods=["temperature"], resamples=50).to_json(),
        "calibrate": lambda: calibrate(validation, test, ["temperature"], resamples=50).to_json(),
        "versus": lambda: versus(test, test, resamples=50).to_json(),
        "decide": lambda: decide(validation, test, methods=["temperature"]).to_json(),
    }
    assert sorted(listed(name)) == sorted(results[name]())


def test_keys_of_runs_and_studies(tmp_path: Path, quick_judging: None) -> None:
    """The same for a training and a study."""
    recipe = Recipe("digits", model="linear", epochs=1, precision="float32", device="cpu")
    assert sorted(listed("train")) == sorted(train(recipe, tmp_path / "run").findings)
    study = compare(recipe, {"smoothing": (0.0, 0.1)}, seeds=1, out=tmp_path / "study")
    assert sorted(listed("compare")) == sorted(study.to_json())


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    """A newcomer would scroll past what matters, or click into nothing."""
    root = DOCS.parent
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) < 150
    pages = [root / "README.md", root / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    pages += DOCS.glob("*/README.md")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text)
        for link in (a or b for a, b in links):
            if not link.startswith(("http", "#")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
        names = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
                 for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}  # fmt: skip
        for anchor in re.findall(r"\]\(#([\w-]+)\)", text):
            assert anchor in names, f"{page.name}: #{anchor}"

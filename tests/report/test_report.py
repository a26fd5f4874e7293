"""The report page: what is on it, that it needs nothing else, and how a browser shows it."""

from __future__ import annotations

import dataclasses
import html
import html.parser
import json
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from browser import CHROMIUM, FLAGS
from levelhead.calibrators import Temperature
from levelhead.cli.flags import Parser, add_recipe, recipe_of
from levelhead.errors import LevelheadError
from levelhead.files import write_json
from levelhead.judging import audit, run_findings
from levelhead.metrics import HEADLINE, METRICS
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.report import (
    judgement_page,
    metric_table,
    run_images,
    run_report,
    run_words,
    shown,
    study_report,
    write_report,
)
from levelhead.runs import Run
from worlds import confused

NASTY = (
    "<script>document.title='owned'</script>",
    "\"quoted\" & 'single'",
    "חתול שחור",
    "猫 – naïve $x_1$",
    "{{ 7 * 7 }}",
    "a very long name of a class that goes on and on without an end_" + "x" * 60,
)
"""Class names that would break a page made without care."""


def make_run(
    folder: Path,
    validation: Outputs,
    test: Outputs,
    *,
    recipe: Recipe | None = None,
    history: Sequence[Mapping[str, float]] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run folder without any training, as train.py writes it."""
    recipe = recipe or Recipe(
        "digits", model="cnn", image_size=8, optimizer="adamw", lr=0.004, epochs=12, smoothing=0.1
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    counts = {"train": 5000, "validation": len(validation), "test": len(test)}
    about = {
        "name": "digits",
        "source": recipe.data,
        "fingerprint": "ab" * 32,
        "class_names": test.class_names,
        "channels": 1,
        "image_size": recipe.image_size,
        "mean": [78.0],
        "std": [96.0],
        "counts": counts,
        "hashes": dict.fromkeys(counts, "cd" * 32),
        "notes": ["val/ is taken as the test set."],
        "skipped": [["train/cat/<b>.jpg", "damaged or cut off (truncated)"]],
    }
    write_json(folder / "data.json", about | dict(data or {}))
    validation.save(folder / "outputs" / "validation.safetensors")
    test.save(folder / "outputs" / "test.safetensors")
    calibrator = Temperature.fit_on(validation)
    write_json(folder / "calibration.json", calibrator.to_json())
    found = run_findings(validation, test, calibrator, 75.2, 1333.3, counts, resamples=100)
    write_json(folder / "findings.json", found)
    told = {"levelhead": "0.1.0", "machine": "a <machine>", "cores": 2, "git": None}
    more = {"seconds": 75.2, "images_per_second": 1333.3, "peak_memory_bytes": 2_000_000_000}
    write_json(folder / "environment.json", told | more)
    if history is None:
        history = epochs(12)
    lines = [",".join(history[0]), *(",".join(f"{v:g}" for v in row.values()) for row in history)]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    return folder


def epochs(n: int) -> list[Mapping[str, float]]:
    """Rows of history.csv of a training with smoothed targets."""
    rows: list[Mapping[str, float]] = []
    for epoch in range(1, n + 1):
        left = float(np.exp(-4 * epoch / n))
        rows.append(
            {
                "epoch": epoch,
                "step": 5 * epoch,
                "seconds": 6.0 * epoch,
                "lr": 0.004 * (1 - epoch / n),
                "train_loss": 0.55 + 1.6 * left,
                "train_nll": 0.12 + 1.9 * left,
                "train_accuracy": 0.98 - 0.7 * left,
                "validation_nll": 0.2 + 1.7 * left,
                "validation_accuracy": 0.95 - 0.6 * left,
                "images_per_second": 1333.0,
            }
        )
    return rows


def study(settings: int = 3, seeds: int = 3, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """A study's findings by hand, as report.py's docstring says."""
    draw = np.random.default_rng(0)

    def cell(value: float, width: float) -> dict[str, Any]:
        per_seed = (value + width / 2 * draw.normal(size=seeds)).tolist()
        return {"value": value, "low": value - width, "high": value + width, "per_seed": per_seed}

    empty = {"value": None, "low": None, "high": None, "reason": "K <= 5", "per_seed": None}
    rows, differences = [], []
    for i in range(settings):
        name = names[i] if i < len(names) else f"smoothing={0.1 * i:g}"
        accuracy = cell(0.93 + 0.002 * i, 0.005)
        row: dict[str, Any] = {
            "name": name,
            "changes": {"smoothing": 0.1 * i},
            "seeds": list(range(seeds)),
            "runs": [f"runs/digits-study-1/{name}-seed{s}" for s in range(seeds)],
            "seconds": {"mean": 61.0},
            "temperature": cell(1.8 - 0.4 * i, 0.06),
        }
        for stage, nll, ece in (
            ("raw", 0.34 - 0.03 * i, 0.045 - 0.01 * i),
            ("calibrated", 0.25, 0.01),
        ):
            row[stage] = {
                "accuracy": accuracy,
                "top5": empty,
                "nll": cell(nll + 0.005 * i, 0.012),
                "brier": cell(0.1 + 0.001 * i, 0.004),
                "ece": cell(ece, 0.004),
            }
        rows.append(row)
        for calibrated in (False, True) if i else ():
            words = f"{name} changes NLL by {-0.03 * i:g} against {rows[0]['name']}: cannot tell."
            change = {"value": -0.03 * i, "low": -0.05 * i, "high": 0.01, "words": words}
            named = {"setting": name, "baseline": rows[0]["name"], "metric": "nll"}
            differences.append(named | {"calibrated": calibrated} | change)
    return {
        "schema": 1,
        "data": {
            "name": "digits",
            "source": "digits",
            "fingerprint": "ab" * 32,
            "class_names": ["0", "1"],
            "counts": {"train": 1293, "validation": 144, "test": 360},
            "hashes": {"train": "cd" * 32},
            "image_size": 8,
            "notes": [],
            "skipped": [],
        },
        "n": 360,
        "classes": 2,
        "class_names": ["0", "1"],
        "settings": rows,
        "differences": differences,
        "recommendation": [
            "Train with smoothing=0 and keep the temperature: cannot tell the settings apart.",
            "Without a temperature, smoothing=0.1 has the lower NLL.",
        ],
        "seconds": 366.0,
    }


class Page(html.parser.HTMLParser):
    """What a parser that knows no JavaScript sees: tags with attributes, and text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts = 0
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        self.scripts += tag == "script"

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.text.append(data)

    @property
    def words(self) -> str:
        """All visible text, single-spaced."""
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six classes whose names are as bad as can be."""
    folder = tmp_path_factory.mktemp("run")
    validation = confused(200, 6, 0, "validation", names=NASTY)
    return make_run(folder, validation, confused(250, 6, 1, "test", names=NASTY), data=about(NASTY))


def about(names: tuple[str, ...]) -> dict[str, Any]:
    """The parts of data.json that name things."""
    return {"name": names[0], "class_names": names, "source": '/data/<b>"x"', "notes": [names[1]]}


def pixels(ids: tuple[str, ...] | None, side: int = 9) -> dict[str, np.ndarray]:
    """A different image for each id."""
    draw = np.random.default_rng(0)
    return {i: draw.integers(0, 256, (side, side, 3), dtype=np.uint8) for i in ids or ()}


def test_a_run_shows_what_it_found_in_order(run: Path) -> None:
    """A number or a part of the page would be missing, wrong, or where nobody looks."""
    page = run_report(run, pixels(Run(run).outputs("test").ids))
    words = Page(page).words
    chosen = Run(run).findings["calibrator"]
    after = chosen["method"].replace("_", " ")
    assert after != "none"
    places = [
        words.index(part)
        for part in (
            Run(run).findings["words"][0],
            f"validation n = 200 test n = 250 test, after {after} n = 250",
            "Can the confidence be believed?",
            "Surest mistakes",
            "test images most often taken for",
            "Commonest mistakes",
            "Plain NLL",
            "The optimised training loss ends at",
            "1 broken image was left out",
            "Recipe and machine",
            "2.00 GB",
            "To repeat",
        )
    ]
    assert places == sorted(places)
    found = Run(run).findings
    stages = {"validation": found["validation"], "test": found["test"], "last": chosen["test"]}
    for stage, judged in stages.items():
        for metric, cell in judged["metrics"].items():
            value, ends = shown(cell, metric)
            if metric in HEADLINE or stage == "last":
                assert f"<span>{value}</span>{f' <small>{ends}</small>' if ends else ''}" in page
    test = Run(run).outputs("test")
    for row in found["report"]["classes"]:
        assert f"{100 * row['recall']:.1f}\u00a0%" in page
    assert page.count("data:image/png") == sum(len(g) for g in galleries(test, run))
    assert "a &lt;machine&gt;" in page
    assert f"{len(test):,}" in words


def galleries(test: Outputs, run: Path) -> list[tuple[Any, ...]]:
    """The samples that the page of a run shows."""
    from levelhead.figures import samples

    return [g.samples for g in samples.data(Run(run).calibration.apply(test))]


def test_names_are_text_and_nothing_is_asked_of_the_network(run: Path) -> None:
    """A class name could run as a script, or reading a report could tell someone about it."""
    made = study(names=NASTY)
    made["recommendation"] = list(NASTY)
    made["data"]["name"] = NASTY[0]
    test_ids = Run(run).outputs("test").ids
    for page in (run_report(run, pixels(test_ids)), run_report(run), study_report(made)):
        parsed = Page(page)
        assert parsed.scripts == 1  # our own
        for name in NASTY[:5]:
            assert name in parsed.words
        for tag, attributes in parsed.tags:
            assert tag not in ("link", "iframe", "object", "embed", "base", "a")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                value = attributes.get(name)
                assert value is None or value.startswith(("data:image/png;base64,", "#"))
        assert not re.search(r"url\((?!#)", page)
        assert "@import" not in page
        assert "default-src 'none'" in page
        ids = [a["id"] for _, a in parsed.tags if a.get("id")]
        assert len(set(ids)) == len(ids)


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    """A report kept under version control would change by itself."""
    images = pixels(Run(run).outputs("test").ids)
    assert run_report(run, images) == run_report(run, images)
    assert study_report(study()) == study_report(study())


def test_without_pictures_the_page_says_how_to_get_them(run: Path) -> None:
    """Empty frames would be left unexplained."""
    page = run_report(run)
    assert "<img" not in page
    assert "A run keeps no images" in page
    assert f"levelhead report {run}" in page
    known = pixels(Run(run).outputs("test").ids)
    assert "A run keeps no images" not in run_report(run, known)


def test_a_thousand_classes_stay_usable(tmp_path: Path) -> None:
    """The page would be a thousand rows long, or many megabytes."""
    test = confused(3000, 1000, 1, "test")
    make_run(tmp_path, confused(1500, 1000, 0, "validation"), test)
    page = run_report(tmp_path)
    assert len(page) < 1_200_000
    before, _, folded = page.partition("The other 980 classes")
    classes = before.partition("<h2>Classes</h2>")[2]
    assert classes.count('<th scope="row">') == 20
    assert folded.partition("</details>")[0].count('<th scope="row">') == 980
    shares = [float(f) for f in re.findall(r'data-sort="([-\d.]+)"', classes)]
    f1 = shares[2::5]
    assert f1 == sorted(f1)


def test_few_classes_no_curves_no_temperature(tmp_path: Path) -> None:
    """Null metrics, a missing history or calibration would break the page."""
    make_run(
        tmp_path, confused(60, 2, 0, "validation"), confused(40, 2, 1, "test"), history=epochs(1)
    )
    assert 'title="any answer is among the top 5 of 2 classes"' in run_report(tmp_path)
    found = json.loads((tmp_path / "findings.json").read_text())
    write_json(tmp_path / "findings.json", found | {"test_calibrated": None, "seconds": None})
    (tmp_path / "history.csv").unlink()
    (tmp_path / "environment.json").unlink()
    page = run_report(tmp_path)
    assert "after temperature" not in Page(page).words.partition("What these numbers mean")[0]
    assert "confidence as it is" in page
    assert "<h2>Training</h2>" not in page


def test_a_frozen_body_has_folds(tmp_path: Path) -> None:
    """The run that photos get by default would have an empty section on training."""
    rows = [
        {"penalty": 10.0**p, "fold_nll": 0.4 + p * p / 10, "fold_accuracy": 0.8} for p in (-2, 0)
    ]
    make_run(tmp_path, confused(60, 3, 0, "validation"), confused(40, 3, 1, "test"), history=rows)
    assert "NLL on held-out folds of the training split" in run_report(tmp_path)


def test_half_a_run_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    """A run that was stopped would end in a traceback, or in a report of nothing."""
    with pytest.raises(LevelheadError, match="not a run folder"):
        write_report(tmp_path)
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "findings.json").unlink()
    with pytest.raises(LevelheadError, match="training has not finished"):
        write_report(tmp_path / "half")
    shutil.copytree(run, tmp_path / "torn")
    (tmp_path / "torn" / "outputs" / "test.safetensors").write_bytes(b"torn")
    with pytest.raises(LevelheadError, match=r"test\.safetensors"):
        write_report(tmp_path / "torn")


def test_pictures_come_from_the_data_itself(tmp_path: Path) -> None:
    """`levelhead report` would show other images than those that were judged."""
    from levelhead.data import scan

    entries = scan("digits").splits["train"]
    assert entries.images is not None
    made = confused(200, 10, 1, "test")
    rows = np.random.default_rng(0).permutation(len(entries))[:200]
    test = Outputs.from_logits(
        made.scores, made.labels, made.class_names, ids=[entries.ids[i] for i in rows], split="test"
    )
    make_run(tmp_path, confused(200, 10, 0, "validation"), test)
    found = run_images(tmp_path)
    at = dict(zip(entries.ids, entries.images, strict=True))
    assert len(found) > 20
    assert all((picture == at[name]).all() for name, picture in found.items())
    page = write_report(tmp_path).read_text(encoding="utf-8")
    shown = set(re.findall(r'src="(data:image[^"]+)"', page))
    assert len(shown) == len({picture.tobytes() for picture in found.values()})
    recipe = Recipe(str(tmp_path / "gone"), model="cnn", image_size=8)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert run_images(tmp_path) == {}


def test_a_study_shows_every_setting_before_and_after(tmp_path: Path) -> None:
    """A setting, a difference or a seed would be missing from the comparison."""
    made = study(3, 2)
    (tmp_path / "findings.json").write_text(json.dumps(made))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    words = Page(page).words
    assert words.index(made["recommendation"][0]) < words.index("Settings")
    for setting in made["settings"]:
        for stage in ("raw", "calibrated"):
            for metric in ("accuracy", "nll", "brier", "ece"):
                assert " ".join(shown(setting[stage][metric], metric)) in words
        assert all(path in words for path in setting["runs"])
    for row in made["differences"]:
        assert row["words"] in words
        assert " ".join(shown(row, "nll", change=True)) in words
    assert "before temperature −0.030 [−0.050, +0.010]" in words
    assert "Top-5" not in words
    one = study(1, 1)
    one["settings"][0]["calibrated"]["nll"] = {
        "value": None,
        "reason": "infinite",
        "per_seed": None,
    }
    one["failed"] = [{"name": "smoothing=0.1", "seed": 3, "why": "the loss is <nan>"}]
    page = study_report(one | {"command": "levelhead compare digits"})
    assert 'title="infinite"' in page
    assert "seed 3 is missing: the loss is &lt;nan&gt;" in page
    assert "<span>levelhead compare digits</span>" in page


def test_words_end_in_the_next_command(run: Path) -> None:
    """`train` would end without saying what was found or what to do next."""
    lines = run_words(Run(run))
    assert "5,000 train, 200 validation, 250 test" in lines[0]
    assert f"Note: {NASTY[1]}" in lines
    assert set(Run(run).findings["words"]) <= set(lines)
    assert lines[-1] == f"Next: levelhead predict {run} IMAGE..."
    found = Run(run).findings["test"]
    table = metric_table({"test": found}).splitlines()
    assert len({len(line) for line in table}) <= 2
    assert "test (n = 250)" in table[0]
    assert len(table) == 2 + sum(m["value"] is not None for m in found["metrics"].values())
    assert "Calibration to annotators" not in "".join(table)  # without a value, left out
    assert len(metric_table({"test": found}, HEADLINE).splitlines()) == 2 + len(HEADLINE)
    said = "\n".join(lines)
    assert all(METRICS[name].title in said for name in ("smece", "aurc"))
    assert METRICS["sharpness"].title not in said


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-4, 1), st.floats(1e-4, 0.5), st.sampled_from(["accuracy", "nll", "ece", ""]))
def test_shown_digits_are_those_the_interval_leaves_standing(
    value: float, half: float, metric: str
) -> None:
    """Digits would be noise, or rounding would hide the interval."""
    text, ends = shown({"value": value, "low": value - half, "high": value + half}, metric)
    scale = 100 if metric == "accuracy" else 1
    low, high = (float(end) for end in ends.strip("[]").replace("−", "-").split(", "))
    number = float(text.removesuffix(" %").replace("−", "-"))
    assert abs(number - scale * value) <= 2 * half * scale / 6 + 1e-6
    assert low < high
    digits = len(text.removesuffix(" %").partition(".")[2])
    assert digits <= 3 or 10.0**-digits >= 2 * half * scale / 31


def test_shown_without_an_interval() -> None:
    """A value that is null, or has no upper end, would show as nan or inf."""
    assert shown(None) == ("–", "")
    assert shown({"value": math.nan}) == ("–", "")
    assert shown({"value": 0.5}, "nll") == ("0.5", "")
    assert shown({"value": 1.0, "low": 0.25, "high": None}) == ("1", "[0.25, ∞]")
    assert shown({"value": 0.3, "low": 0.3, "high": 0.3}, "nll")[0] == "0.300000"


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("digits"),
        Recipe("a folder/it's", flip=False, step_at=(0.25, 0.5), schedule="step", lr=1e-05),
        Recipe("x", flip=True, finetune=True, model="lite0", strict_splits=True, cutout=0, seed=7),
    ],
)
def test_the_command_repeats_the_recipe(recipe: Recipe) -> None:
    """Who types the command of the report would train something else."""
    parser = Parser(prog="levelhead train")
    add_recipe(parser)
    words = shlex.split(recipe.command())
    assert words[:2] == ["levelhead", "train"]
    assert recipe_of(parser.parse(words[2:])) == recipe


MEASURE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(part => part.open = true);
  const heads = document.querySelectorAll(".sortable thead th"), cells = i => [
    ...document.querySelector(".sortable").tBodies[0].rows].map(row => row.cells[i].textContent);
  if (heads.length) heads[4].click();
  const image = document.querySelector("figure img"), small = image && image.width;
  if (image) image.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
  const style = getComputedStyle(document.body);
  parent.postMessage(JSON.stringify({
    title: document.title, width: innerWidth, needs: document.documentElement.scrollWidth,
    loaded: performance.getEntriesByType("resource").map(entry => entry.name),
    broken: [...document.images].filter(image => !image.naturalWidth).length,
    drawings: document.querySelectorAll("svg").length,
    titles: [...document.querySelectorAll("svg title")].map(title => title.textContent),
    grown: image ? image.width / small : 0,
    support: heads.length ? cells(4) : [],
    outside: [...document.querySelectorAll(".panels svg")].filter(
      svg => svg.getBoundingClientRect().right > innerWidth).length,
    background: style.backgroundColor }), "*");
});
</script></body>"""


FRAME = """<!doctype html><script>
addEventListener("message", told => document.documentElement.dataset.seen = told.data);
</script><iframe src="copy.html" style="width: {width}px; height: 800px; border: 0"></iframe>"""


def in_browser(page: str, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """Open a copy of the page in headless Chromium, and measure what it became."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    # The page's policy lets no script run but its own: the one that measures needs another.
    page = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", page)
    (folder / "copy.html").write_text(page.replace("</body>", MEASURE), encoding="utf-8")
    # A headless window is never narrower than 500 px, a frame is as narrow as one likes.
    path = folder / "frame.html"
    path.write_text(FRAME.format(width=width), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS.split(),
            f"--user-data-dir={folder / 'profile'}",
            "--window-size=1200,900",
            "--virtual-time-budget=4000",
            *flags,
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout.decode("utf-8"))
    assert found, done.stderr.decode()[-2000:]
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_shows_a_run(run: Path, tmp_path: Path, width: int) -> None:
    """On a phone the page would scroll sideways; a name would run; an image would not show."""
    page = run_report(run, pixels(Run(run).outputs("test").ids))
    seen = in_browser(page, tmp_path, width)
    assert seen["title"] == f"{NASTY[0]} · cnn – levelhead"
    assert seen["width"] == width
    assert seen["needs"] <= width
    assert seen["outside"] == 0
    assert [name for name in seen["loaded"] if not name.startswith("data:")] == []
    assert seen["broken"] == 0
    assert seen["drawings"] == 2 + 1 + 3
    support = [int(cell) for cell in seen["support"]]
    assert support == sorted(support, reverse=True)  # the click on the heading sorted it
    assert len(support) == 6
    assert seen["grown"] > 2  # an image that is pressed


def test_a_browser_shows_an_audit(tmp_path: Path) -> None:
    """On a phone the page would scroll sideways, ask the network, or have no numbers to hover."""
    outputs = confused(300, 6, 0, "test", names=NASTY)
    outputs = dataclasses.replace(outputs, groups=(NASTY[0], "") * 150)
    done = audit(outputs, methods=["temperature"], resamples=50)
    panels = judgement_page.audit_panels(done)
    told = "levelhead audit '<b>x</b>' --logits"
    page = judgement_page.audit_report(done, panels, NASTY[0], told)
    parsed = Page(page)
    assert parsed.scripts == 1
    assert all(name in parsed.words for name in NASTY[:5])
    again = judgement_page.audit_panels(done)
    assert page == judgement_page.audit_report(done, again, NASTY[0], told)
    seen = in_browser(page, tmp_path, 400, "--blink-settings=preferredColorScheme=0")
    assert seen["title"] == f"{NASTY[0]} – levelhead"
    assert seen["width"] == 400
    assert seen["needs"] <= 400
    assert seen["outside"] == 0
    assert seen["loaded"] == []
    assert seen["drawings"] == sum(map(len, panels.values()))
    assert sum(bool(re.search(r"\d", title)) for title in seen["titles"]) > 100
    assert seen["background"] == "rgb(21, 24, 28)"


def test_a_browser_shows_a_study_in_the_dark(tmp_path: Path) -> None:
    """A study's tables would not fit a phone, or dark pages would not be dark."""
    page = study_report(study(4, 3, NASTY))
    seen = in_browser(page, tmp_path, 390, "--blink-settings=preferredColorScheme=0")
    assert seen["needs"] <= 390
    assert seen["drawings"] == 4
    assert seen["loaded"] == []
    assert seen["background"] == "rgb(21, 24, 28)"
    light = in_browser(page, tmp_path, 1100)
    assert light["background"] == "rgb(255, 255, 255)"


def test_the_card_says_what_a_stranger_needs(tmp_path: Path) -> None:
    """Who gets the model without its makers would not know its classes, promises and limits."""
    from levelhead.report.card import write_card
    from levelhead.runs import Run
    from levelhead.training import train

    recipe = Recipe("digits", model="linear", epochs=1, precision="float32", device="cpu")
    run = train(recipe, tmp_path / "run")
    path = write_card(run, licence="CC0 | free", timed=3)
    card = path.read_text(encoding="utf-8")
    for words in (
        "10 classes: 0, 1, 2",
        "licence: CC0 | free",
        "never tried on",
        "p99",
        "levelhead: ",
    ):
        assert words in card
    for promise in run.policy.promises:
        assert promise in card
    assert run.data["hashes"]["test"][:16] in card
    assert isinstance(run, Run)
    assert "never tried on" in Page(write_report(run.folder).read_text(encoding="utf-8")).words

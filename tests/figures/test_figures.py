"""Figures: the numbers they are made of, and that what is drawn can be read."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.decisions import risk_coverage as curve_of
from levelhead.figures import (
    FIGURES,
    comparison,
    confusion,
    coverage,
    cumulative,
    curves,
    heatmap,
    reliability,
    risk_coverage,
    samples,
)
from levelhead.figures import (
    classwise_reliability as classwise,
)
from levelhead.figures import (
    confidence_histogram as confidence,
)
from levelhead.figures.canvas import _painted, shorten, tip, to_png, to_svg
from levelhead.metrics import METRICS
from levelhead.outputs import Outputs
from worlds import mostly_right

NASTY = ("<script>alert(1)</script>", "\"q\" & 'r'", "חתול", "猫 $x_1$", "two\nlines", "")


def history(epochs: int = 5, **changes: float) -> list[dict[str, float]]:
    """Rows of history.csv whose optimised loss lies above everything else."""
    names = {"train_loss": 0.9, "train_nll": 0.3, "validation_nll": 0.4, "lr": 0.1}
    shares = {"train_accuracy": 0.9, "validation_accuracy": 0.85}
    return [{"epoch": e, **names, **shares, **changes} for e in range(1, epochs + 1)]


def folds(penalties: list[float]) -> list[dict[str, float]]:
    """Rows of history.csv of a frozen body; the second penalty is the best."""
    return [
        {"penalty": p, "fold_nll": 0.4 + 0.1 * abs(i - 1), "fold_accuracy": 0.8}
        for i, p in enumerate(penalties)
    ]


def study(count: int = 3, *, temperature_changes: bool = True) -> dict[str, Any]:
    """As much of a study's findings as its figure reads."""

    def cell(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 0.01, "high": value + 0.02, "per_seed": [value] * 3}

    empty = {"value": None, "low": None, "high": None, "per_seed": None, "reason": "K <= 5"}
    after = 0.25 if temperature_changes else 0.3
    return {
        "settings": [
            {
                "name": f"smoothing={i / 10:g}, model=resnet{i}, penalty=0.001, loss=focal_loss",
                "raw": {"accuracy": cell(0.9), "nll": cell(0.3), "top5": empty},
                "calibrated": {"accuracy": cell(0.9), "nll": cell(after), "top5": empty},
            }
            for i in range(count)
        ]
    }


def certain(made: Outputs) -> dict[str, Any]:
    """Risk–coverage curves of two scores."""
    errors = 1 - made.rows.correct
    scores = {"msp": -made.rows.log_rest, "a score with a long name": -made.rows.entropy}
    return {name: curve_of(score, errors) for name, score in scores.items()}


def panels() -> list[tuple[str, Any]]:
    """Every figure with common and extreme sources."""
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    some = mostly_right()
    perfect = mostly_right(5, 2, gain=50.0)
    eye = 9 * np.eye(3)[np.arange(30) % 3]
    right, wrong = (Outputs.from_logits(eye, (np.arange(30) + shift) % 3) for shift in (0, 1))
    long = mostly_right(
        2000, 60, gain=4.0, names=[f"a long name of the class {k}" for k in range(60)]
    )
    sources: list[tuple[str, tuple[Any, ...]]] = [
        ("reliability", reliability.data(some, mostly_right(gain=0.3))),
        ("reliability", reliability.data(perfect)),
        ("confusion", confusion.data(some)),
        ("confusion", confusion.data(mostly_right(names=NASTY))),
        ("confusion", confusion.data(mostly_right(40, 2))),
        ("confusion", confusion.data(mostly_right(400, 20))),
        ("confusion", confusion.data(mostly_right(200, 21))),
        ("confusion", confusion.data(mostly_right(300, 600))),
        ("curves", curves.data(history(), classes=10, smoothing=0.1)),
        ("curves", curves.data(history(1), classes=10)),
        ("curves", curves.data(history(40, train_nll=math.nan), classes=10)),
        ("curves", curves.data(folds([1e-4, 1e-2, 1.0]), classes=6)),
        ("curves", curves.data(folds([0.0, 1e-2, 1.0]), classes=6)),
        (
            "samples",
            samples.data(
                some,
                {
                    f"{i}.png": np.full((10, 10, 3), (i % 256, i // 256, 9), np.uint8)
                    for i in range(300)
                },
            ),
        ),
        ("samples", samples.data(perfect)),
        ("samples", samples.data(mostly_right(names=NASTY), {"0.png": picture[:, :, 0]})),
        ("comparison", comparison.data(study())),
        ("comparison", comparison.data(study(1, temperature_changes=False))),
        ("comparison", comparison.data(study(9))),
        ("confusion", confusion.data(long, ordered=True)),
        ("heatmap", heatmap.data(long)),
        ("classwise", classwise.data(long, 1)),
        ("classwise", classwise.data(mostly_right(names=NASTY), 1)),
        ("risk_coverage", risk_coverage.data(certain(long), {"a": 0.2, "99 % precision": 0.4})),
        ("risk_coverage", risk_coverage.data({"msp": certain(right)["msp"]})),
        ("coverage", coverage.data(long.class_names, [20] * 60, [30] * 60, 0.9)),
        ("coverage", coverage.data(NASTY, [3, 0, 5, 1, 0, 0], [3, 1, 9, 1, 0, 0], 0.9)),
    ]
    for made in (some, mostly_right(3, 4), right, wrong):
        for name in ("confidence", "cumulative", "heatmap"):
            sources.append((name, FIGURES[name].data(made)))
    return [(name, panel) for name, made in sources for panel in made]


@pytest.mark.parametrize(("name", "panel"), panels())
def test_nothing_is_cut_off_and_everything_can_be_read(name: str, panel: Any) -> None:
    """A title or label would run off the image, or be set too small to read."""
    with _painted(panel, FIGURES[name].draw) as figure:
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert box.x0 > -0.02
        assert box.y0 > -0.02
        assert box.x1 < width + 0.02
        assert box.y1 < height + 0.02
        texts = [*figure.axes[0].texts, *figure.axes[0].get_xticklabels(), figure.axes[0].title]
        assert min(float(text.get_fontsize()) for text in texts) >= 7


@pytest.mark.parametrize(("name", "panel"), panels())
def test_svg_is_wellformed_unique_and_reproducible(name: str, panel: Any) -> None:
    """Drawings would clash on one page, change from run to run, or ask the network for things."""
    draw = FIGURES[name].draw
    first = to_svg(panel, draw, "a")
    assert to_svg(panel, draw, "a") == first
    ids = re.findall(r'\sid="([^"]+)"', first)
    assert ids
    assert all(i.startswith("a-") for i in ids)
    assert len(set(ids)) == len(ids)
    used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', first)
    assert {one or other for one, other in used} <= set(ids)
    root = ElementTree.fromstring(first)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith(("href", "src")):
                assert value.startswith(("#", "data:"))
    assert "<style" not in first
    assert "<script" not in first
    assert not re.search(r"\d{4}-\d\d-\d\dT", first)
    assert root.attrib["aria-label"] == panel.label
    # A report has dozens of drawings, and is sent by mail.
    assert len(first) < 150_000 or name == "samples"


def test_text_stays_text_in_any_script() -> None:
    """Class names could not be searched or copied, or `$` in one would be set as mathematics."""
    (panel,) = confusion.data(mostly_right(names=NASTY))
    root = ElementTree.fromstring(to_svg(panel, confusion.draw, "m"))
    texts = {"".join(e.itertext()).strip() for e in root.iter() if e.tag.endswith("text")}
    assert {"\"q\" & 'r'", "חתול", "猫 $x_1$", "two lines"} <= texts


def test_colours_follow_the_page() -> None:
    """A drawing would stay black on a dark page."""
    (panel, *_) = curves.data(history(), classes=10)
    svg = to_svg(panel, curves.draw, "c")
    assert "var(--ink,#1b1f24)" in svg
    bare = re.sub(r"var\([^)]*\)", "", svg)
    assert not re.search(r"(fill|stroke): ?#(?!ffffff)", bare)


def test_png_is_a_png() -> None:
    """The README's images could not be made."""
    (panel, *_) = curves.data(history(), classes=10)
    assert to_png(panel, curves.draw).startswith(b"\x89PNG")


def test_no_pyplot_and_no_lasting_change() -> None:
    """Drawing would pull in pyplot's global state, or importing the room would load matplotlib."""
    code = """
import sys
import levelhead.figures, levelhead.report
assert "matplotlib" not in sys.modules and "jinja2" not in sys.modules
import matplotlib
before = {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
from levelhead.figures import curves
from levelhead.figures.canvas import to_svg
row = {"epoch": 1, "lr": 0.1, "validation_nll": 1.0}
to_svg(curves.data([row], classes=3)[0], curves.draw, "x")
assert "matplotlib.pyplot" not in sys.modules
assert before == {k: matplotlib.rcParams[k] for k in before}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 20), st.integers(2, 12))
def test_reliability_agrees_with_plain_numpy(seed: int, gain: float, classes: int) -> None:
    """Bars would show other bins than the ECE is made of."""
    made = mostly_right(120, classes, seed, gain=gain)
    (panel,) = reliability.data(made, ece=[{"value": 0.5, "low": 0.1, "high": 0.2}])
    p = made.probabilities().numpy()
    sure, right = p.max(1), p.argmax(1) == made.labels.numpy()
    index = np.digitize(sure, np.arange(1, 15) / 15, right=True)
    for b in range(15):
        mine = index == b
        assert panel.counts[b] == mine.sum()
        if mine.any():
            assert panel.accuracy[b] == pytest.approx(right[mine].mean())
            assert panel.confidence[b] == pytest.approx(sure[mine].mean())
        else:
            assert np.isnan(panel.accuracy[b])
    gaps = np.abs(panel.confidence - panel.accuracy)
    assert panel.ece[0] == pytest.approx(np.nansum(gaps * panel.counts) / 120)
    assert panel.ece[1:] == (0.1, 0.2)
    assert "[0.100, 0.200], n = 120" in panel.heading


def test_reliability_intervals_are_wilsons() -> None:
    """The uprights would promise too much, most in bins of a few images."""
    from levelhead.statistics.examples import wilson

    before, after = reliability.data(mostly_right(), mostly_right(gain=0.5))
    assert (before.title, after.title) == ("Before temperature", "After temperature")
    for panel in (before, after):
        for b in np.flatnonzero(panel.counts):
            hits = round(panel.accuracy[b] * panel.counts[b])
            ends = wilson(hits, int(panel.counts[b]))
            assert (panel.low[b], panel.high[b]) == pytest.approx(ends, abs=1e-9)
    assert 0 <= before.ece[1] <= before.ece[2] <= 1


def test_confusion_agrees_with_scikit_learn() -> None:
    """Rows and columns would be swapped, or counts wrong."""
    from sklearn.metrics import confusion_matrix

    made = mostly_right(500, 9)
    (panel,) = confusion.data(made)
    expected = confusion_matrix(made.labels, made.predictions())
    assert (panel.counts == expected).all()
    assert panel.shares == pytest.approx(
        confusion_matrix(made.labels, made.predictions(), normalize="true")
    )
    np.fill_diagonal(expected, 0)
    true, predicted, count, share = panel.pairs()[0]
    assert count == expected.max()
    assert expected[int(true), int(predicted)] == count
    assert share == pytest.approx(count / (made.labels == int(true)).sum())
    assert len(panel.pairs(1000)) == (expected > 0).sum()


def test_confusion_of_many_classes_hides_no_mistake() -> None:
    """A lone mistake among 600 classes would be averaged away in the image."""
    counts = 5 * np.eye(600, dtype=np.int64)
    counts[417, 33] = 1
    panel = confusion.Confusion(counts, tuple(f"class {k}" for k in range(600)))
    with _painted(panel, confusion.draw) as figure:
        (image,) = figure.axes[0].images
        pixels = np.asarray(image.get_array())
        step = math.ceil(600 / len(pixels))
        assert len(figure.axes[0].texts) == 0
    wrong = pixels[417 // step, 33 // step]
    assert wrong[3] > 60
    assert wrong[0] > wrong[2]  # vermillion, not blue
    assert (pixels[..., 3] > 0).sum() == len(pixels) + 1


def test_cells_carry_counts_up_to_twenty_classes() -> None:
    """Numbers would be missing, or 21 classes would be a blot of them."""
    for classes, wanted in ((20, True), (21, False)):
        (panel,) = confusion.data(mostly_right(200, classes))
        with _painted(panel, confusion.draw) as figure:
            texts = [t.get_text() for t in figure.axes[0].texts]
        found = sorted(map(str, panel.counts[panel.counts > 0]))
        assert (sorted(texts) == found) if wanted else not texts


def test_curves_show_plain_losses_and_the_optimised_one_where_it_differs() -> None:
    """A smoothed training loss would be compared with a plain validation loss."""
    nll, accuracy, rate = curves.data(history(), classes=10, smoothing=0.1)
    assert [(line.name, line.style) for line in nll.lines] == [
        ("training", "-"),
        ("validation", "-"),
        ("training, as optimised", "--"),
        ("its floor: the targets' entropy", ":"),
    ]
    assert nll.lines[-1].y.tolist() == [pytest.approx(0.5003, abs=1e-4)] * 5
    assert accuracy.percent
    assert rate.lines[0].y.tolist() == [0.1] * 5
    plain, *_ = curves.data(history(train_loss=0.3), classes=10)
    assert [line.name for line in plain.lines] == ["training", "validation"]
    assert curves.data([], classes=3) == ()


@pytest.mark.parametrize(
    ("smoothing", "augmented", "loss", "said"),
    [
        (0.1, False, 0.9, "smoothed by 0.1"),
        (0.1, True, 0.9, "cropped"),
        (0.0, True, 0.9, "cropped"),
        (0.0, False, 0.9, None),
        (0.1, True, 0.2, None),
        (0.1, True, math.nan, None),
    ],
)
def test_the_sentence_on_the_training_loss_follows_the_data(
    smoothing: float, augmented: bool, loss: float, said: str | None
) -> None:
    """The page would explain what is not there, or leave it looking like a bug."""
    rows = history(train_loss=loss)
    nll, *_ = curves.data(rows, classes=10, smoothing=smoothing, augmented=augmented)
    if said is None:
        assert nll.note is None
    else:
        assert nll.note is not None
        assert said in nll.note
        assert ("entropy" in nll.note) == (smoothing > 0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.49), st.integers(2, 50), st.sampled_from(["uniform", "others"]))
def test_floor_is_the_entropy_of_the_smoothed_target(
    smoothing: float, classes: int, convention: str
) -> None:
    """The bound that the sentence names would be wrong."""
    from scipy.stats import entropy

    target = np.full(classes, smoothing / (classes if convention == "uniform" else classes - 1))
    target[0] = 1 - target[1:].sum()
    assert curves.floor(smoothing, classes, convention) == pytest.approx(entropy(target), abs=1e-9)


def test_a_frozen_body_shows_its_folds_and_the_penalty_taken() -> None:
    """A run without epochs would have no curve, or mark another penalty."""
    nll, accuracy = curves.data(folds([1e-4, 1e-2, 1.0]), classes=6)
    assert nll.chosen == accuracy.chosen == 1e-2
    with _painted(nll, curves.draw) as figure:
        figure.draw_without_rendering()
        assert figure.axes[0].get_xscale() == "log"
        labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "0.01" in labels


def test_samples_are_the_extremes() -> None:
    """Other images than the worst would be shown."""
    made = mostly_right(400, 5, gain=1.0)
    p, labels = made.probabilities().numpy(), made.labels.numpy()
    right, sure = p.argmax(1) == labels, p.max(1)
    truth = p[np.arange(400), labels]
    surest, losses, least = samples.data(made, count=7)
    wrong = np.flatnonzero(~right)
    first = wrong[np.argsort(-sure[wrong])[:7]]
    assert [s.id for s in surest.samples] == [f"{i}.png" for i in first]
    rest = np.setdiff1d(wrong, first)
    assert [s.id for s in losses.samples] == [f"{i}.png" for i in rest[np.argsort(truth[rest])[:7]]]
    good = np.flatnonzero(right)
    assert [s.id for s in least.samples] == [f"{i}.png" for i in good[np.argsort(sure[good])[:7]]]
    one = surest.samples[0]
    assert one.confidence == pytest.approx(sure[first[0]])
    assert one.probability == pytest.approx(truth[first[0]])
    assert (one.true, one.predicted) == (str(labels[first[0]]), str(p.argmax(1)[first[0]]))
    assert set(samples.wanted(made, 7)) == {
        s.id for gallery in (surest, losses, least) for s in gallery.samples
    }


def test_saturated_confidences_are_ranked_by_their_loss() -> None:
    """Of many confidences of exactly 1 any would be shown, not the worst."""
    scores = [[0, 900.0, 0], [0, 1000.0, 0], [5.0, 0, 0]]
    made = Outputs.from_logits(scores, [0, 0, 0])
    galleries = samples.data(made, count=1)
    assert [gallery.samples[0].id for gallery in galleries] == ["1", "0", "2"]


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    """Photos of megabytes would go into the page, or small images be changed."""
    small = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    assert (samples.thumbnail(small) == small).all()
    assert (samples.thumbnail(small[:, :, 0]) == small[:, :, 0]).all()
    assert (samples.thumbnail(small[:, :, :1]) == small[:, :, 0]).all()
    wide = np.full((300, 900, 3), 7, dtype=np.uint8)
    assert samples.thumbnail(wide).shape == (37, 112, 3)
    assert samples.thumbnail(np.zeros((1, 5000), np.uint8)).shape == (1, 112)


def test_comparison_leaves_out_what_has_no_number() -> None:
    """A metric that is null for few classes would break the study's page."""
    accuracy, nll = comparison.data(study())
    assert (accuracy.metric, nll.metric) == ("accuracy", "nll")
    assert nll.raw[0].tolist() == pytest.approx([0.3, 0.29, 0.32])
    assert nll.calibrated_seeds[2].tolist() == [0.25] * 3
    with _painted(accuracy, comparison.draw) as figure:
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert [t.get_text() for t in legend.get_texts()] == ["before and after temperature"]
    assert comparison.data({"settings": []}) == ()


@given(st.text(max_size=60), st.integers(4, 40))
def test_shortened_names_fit(name: str, limit: int) -> None:
    """A long name would push the drawing off its page."""
    assert len(shorten(name, limit)) <= limit


def titles(svg: str) -> list[str]:
    """What the parts of a drawing show under the pointer."""
    parts = ElementTree.fromstring(svg).iter()
    return [part.text or "" for part in parts if part.tag.endswith("}title")]


def test_numbers_show_under_the_pointer() -> None:
    """A reader would have to guess numbers from bars, or a class name would break the page."""
    (matrix,) = confusion.data(mostly_right(names=NASTY))
    svg = to_svg(matrix, confusion.draw, "a")
    assert "tip|" not in svg
    found = titles(svg)
    assert len(found) == (matrix.counts > 0).sum()
    assert any(text.startswith(f"{NASTY[0]} taken for {NASTY[1]}: ") for text in found)
    (panel,) = reliability.data(mostly_right(), smooth=False)
    wanted = [n for n in panel.counts.tolist() if n]
    texts = titles(to_svg(panel, reliability.draw, "a"))
    said = [int(re.findall(r"n = (\d+)", text)[0]) for text in texts]
    assert said == wanted
    (curve,) = cumulative.data(mostly_right(5000))
    assert len(titles(to_svg(curve, cumulative.draw, "a"))) == 30


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30))
def test_a_tip_says_what_it_was_given(text: str) -> None:
    """A name with signs of HTML would be cut short, or run as code."""
    (panel,) = confidence.data(mostly_right(20))

    def draw(panel: Any, axes: Any) -> None:
        tip(axes.axvline(0.5), text)

    assert titles(to_svg(panel, draw, "a")) == [text]


def test_a_tip_leaves_the_png_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images for documents would change with what only a page can show."""
    (panel,) = confidence.data(mostly_right())
    first = to_png(panel, confidence.draw)
    monkeypatch.setattr(confidence, "tip", lambda artist, text: None)
    assert to_png(panel, confidence.draw) == first


def test_the_smooth_curve_is_a_kernel_mean() -> None:
    """The curve or its band would not be what the literal formula says."""
    made = mostly_right(2000, 6, gain=1.5)
    (panel,) = reliability.data(made, ece=[{}])
    curve = panel.smooth
    assert curve is not None
    value = METRICS["smece"].value(METRICS["smece"].prepare(made))["smece"]
    sigma = min(max(value, 0.02), 0.1)
    sure, right = made.rows.confidence.numpy(), made.rows.correct.numpy()

    def smooth(rows: np.ndarray) -> np.ndarray:
        images = [sign * sure[rows] + shift for sign in (1, -1) for shift in (-2, 0, 2)]
        kernel = sum(np.exp(-(((curve.at[:, None] - x) / sigma) ** 2) / 2) for x in images)
        return np.asarray(kernel @ right[rows] / kernel.sum(1))

    known = np.isfinite(curve.accuracy)
    assert known.any()
    assert not known[curve.at < sure.min() - 0.01].any()
    literal = smooth(np.arange(2000))
    assert curve.accuracy[known] == pytest.approx(literal[known], abs=2e-3)
    draw = np.random.default_rng(5)
    drawn = np.stack([smooth(draw.integers(0, 2000, 2000)) for _ in range(150)])
    low, high = np.quantile(drawn[:, known], [0.025, 0.975], axis=0)
    width = (curve.high - curve.low)[known]
    assert np.mean(width / (high - low)) == pytest.approx(1, abs=0.1)
    assert (curve.low[known] <= curve.accuracy[known]).all()
    assert (curve.accuracy[known] <= curve.high[known]).all()


def test_few_examples_have_no_smooth_curve_and_titles_are_free() -> None:
    """A line through three points would look like knowledge."""
    (panel,) = reliability.data(mostly_right(3), titles=("Mine", "unused"))
    assert panel.smooth is not None
    assert np.isnan(panel.smooth.accuracy).all()
    assert panel.title == "Mine"
    both = reliability.data(
        mostly_right(), mostly_right(), ("Before", "After isotonic"), smooth=False
    )
    assert [p.title for p in both] == ["Before", "After isotonic"]
    assert both[0].smooth is None


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_classwise_agrees_with_plain_numpy(kind: str) -> None:
    """Small panels and heat map would show other gaps than the classwise ECE is the mean of."""
    made = mostly_right(700, 4)
    p, labels = made.probabilities().numpy(), made.labels.numpy()
    if kind == "probabilities":
        made = Outputs.from_probabilities(p, labels)
    found = classwise.data(made)
    errors = [panel.ece[0] for panel in found]
    assert errors == sorted(errors, reverse=True)
    metric = METRICS["classwise_ece"]
    assert np.mean(errors) == pytest.approx(metric.value(metric.prepare(made))["classwise_ece"])
    (heat,) = heatmap.data(made)
    assert list(heat.class_names) == [panel.title for panel in found]
    for row, panel in enumerate(found):
        k = int(panel.title)
        index = np.digitize(p[:, k], np.arange(1, 15) / 15, right=True)
        for b in range(15):
            mine = index == b
            assert panel.counts[b] == heat.counts[row, b] == mine.sum()
            if mine.any():
                share = (labels[mine] == k).mean()
                assert panel.accuracy[b] == pytest.approx(share)
                assert panel.confidence[b] == pytest.approx(p[mine, k].mean())
                assert heat.gap[row, b] == pytest.approx(p[mine, k].mean() - share)
            else:
                assert np.isnan(heat.gap[row, b])
    assert len(classwise.data(mostly_right(200, 30))) == 12
    only = Outputs.from_confidence([0.9, 0.4], [0, 1], [0, 0])
    assert classwise.data(only) == heatmap.data(only) == ()


def test_heatmap_numbers_stand_where_the_gap_is_beyond_chance() -> None:
    """Noise would be read as a finding."""
    (panel,) = heatmap.data(mostly_right(3000, 4, gain=6.0))
    with _painted(panel, heatmap.draw) as figure:
        texts = [t.get_text() for t in figure.axes[0].texts]
    some = panel.sure & (panel.counts >= 5) & (np.abs(panel.gap) >= 0.01)
    assert texts == [f"{100 * g:+.0f}".replace("-", "−") for g in panel.gap[some]]
    assert some.any()
    assert not some.all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(0, 100))
def test_confidence_counts_every_example_once(n: int, seed: int) -> None:
    """The two histograms would not add up to the predictions."""
    made = mostly_right(n, 5, seed)
    (panel,) = confidence.data(made)
    sure, right = made.rows.confidence.numpy(), made.rows.correct.numpy() > 0
    index = np.digitize(sure, np.arange(1, 20) / 20, right=True)
    assert panel.right.tolist() == np.bincount(index[right], minlength=20).tolist()
    assert panel.wrong.tolist() == np.bincount(index[~right], minlength=20).tolist()
    assert (panel.accuracy, panel.mean) == pytest.approx((right.mean(), sure.mean()))


def test_a_count_of_one_can_be_seen_on_a_logarithmic_axis() -> None:
    """The one sure mistake among thousands would vanish."""
    panel = confidence.Confidence(np.array([0, 0.5, 1]), np.array([0, 9000]), np.array([1, 0]), 0.9)
    with _painted(panel, confidence.draw) as figure:
        axes = figure.axes[0]
        assert axes.get_yscale() == "log"
        assert axes.get_ylim()[0] < 1
        assert axes.get_ylim()[1] > 9000


def test_risk_coverage_marks_and_bounds() -> None:
    """The mark would stand beside its curve, or the first few examples stretch the axis."""
    made = mostly_right(3000, 10, gain=1.0)
    curves_ = certain(made)
    (panel,) = risk_coverage.data(curves_, {"90 % precision": 0.5})
    msp = curves_["msp"]
    ((text, at, risk),) = panel.marks
    assert (text, at) == ("90 % precision", 0.5)
    assert risk == pytest.approx(msp.risk[1499], abs=5e-3)
    assert panel.areas[0] == msp.aurc
    errors = np.sort(1 - made.rows.correct.numpy())
    best = np.cumsum(errors) / np.arange(1, 3001)
    at_ = np.round(panel.curves[0][0] * 3000).astype(int) - 1
    assert panel.ideal == pytest.approx(best[at_])
    assert (panel.band[0] <= panel.curves[0][1] + 1e-12).all()
    assert (panel.band[1] >= panel.curves[0][1] - 1e-12).all()
    with _painted(panel, risk_coverage.draw) as figure:
        assert figure.axes[0].get_ylim()[1] <= 2 * errors.mean()
        first, second = figure.axes[0].lines[:2]
        assert first.get_color() != second.get_color()
        assert first.get_linestyle() != second.get_linestyle()


def test_cumulative_agrees_with_plain_numpy_in_any_order() -> None:
    """Slope and height would not be the miscalibration, or depend on the order of equal rows."""
    made = mostly_right(1500, 3, gain=4.0)
    (panel,) = cumulative.data(made)
    sure, right = made.rows.confidence.numpy(), made.rows.correct.numpy()
    order = np.argsort(sure, kind="stable")
    path = np.cumsum((sure - right)[order]) / 1500
    assert len(panel.share) <= 1000
    at = np.round(panel.share[1:] * 1500).astype(int) - 1
    assert panel.difference[1:] == pytest.approx(path[at], abs=1e-12)
    assert (panel.share[-1], panel.difference[-1]) == pytest.approx((1, np.mean(sure - right)))
    assert panel.mad == pytest.approx(np.abs(path).max())
    tied = Outputs.from_confidence([0.8] * 6, [0] * 6, [0, 0, 0, 1, 1, 0])
    again = tied.take([4, 3, 0, 1, 2, 5])
    (one,), (other,) = cumulative.data(tied), cumulative.data(again)
    assert one.difference == pytest.approx(other.difference)


def test_ordered_confusion_puts_the_confused_side_by_side() -> None:
    """Pairs that are taken for each other would be scattered, or counts leave their class."""
    shuffled = np.random.default_rng(3).permutation(12)
    labels, draw = np.repeat(np.arange(12), 40), np.random.default_rng(4)
    partner = np.argsort(shuffled)[(shuffled ^ 1)]  # twins: shuffled names 2j and 2j + 1
    predicted = np.where(draw.random(480) < 0.3, partner[labels], labels)
    made = Outputs.from_logits(5.0 * np.eye(12)[predicted], labels)
    (plain,), (panel,) = confusion.data(made), confusion.data(made, ordered=True)
    assert plain.class_names == made.class_names
    names = [int(name) for name in panel.class_names]
    assert sorted(names) == list(range(12))
    assert (panel.counts == plain.counts[np.ix_(names, names)]).all()
    place = np.argsort(names)
    assert all(abs(place[k] - place[partner[k]]) == 1 for k in range(12))
    assert confusion.data(mostly_right(50, 2), ordered=True)[0].class_names == ("0", "1")


def test_coverage_shows_the_least_covered_first() -> None:
    """The class whose promise is broken would be left out, or not stand out."""
    from scipy.stats import binomtest

    (panel,) = coverage.data(["a", "b", "c", "d"], [95, 0, 40, 5], [100, 0, 80, 5], 0.9)
    assert panel.class_names == ("c", "a", "d")
    assert panel.total == (3, 185, 140)
    for row, (hits, n) in enumerate([(40, 80), (95, 100), (5, 5)]):
        ci = binomtest(hits, n).proportion_ci(method="wilson")
        assert (panel.low[row], panel.high[row]) == pytest.approx((ci.low, ci.high))
    with _painted(panel, coverage.draw) as figure:
        seen = [line for line in figure.axes[0].lines if line.get_alpha() != 0]
    shown = [line.get_markerfacecolor() for line in seen]
    assert shown[:3].count("none") == 1
    assert shown[0] == "none"
    assert len(coverage.data(range(90), [1] * 90, [2] * 90, 0.9)[0].class_names) == 40


def test_of_many_classes_the_commonest_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of 20,000 classes would fill the memory; a cut one would count others."""
    from levelhead.figures import confusion
    from levelhead.metrics.counts import confusion as counts

    rng = np.random.default_rng(0)
    labels = rng.choice(6, 300, p=[0.3, 0.02, 0.3, 0.3, 0.03, 0.05])
    z = rng.normal(size=(300, 6))
    z[:, [1, 4, 5]] -= 9
    outputs = Outputs.from_logits(z, labels, list("abcdef"))
    monkeypatch.setattr(confusion, "SHOWN", 3)
    (panel,) = confusion.data(outputs)
    assert panel.class_names == ("a", "c", "d")
    assert panel.left_out == 3
    assert np.array_equal(panel.counts, counts(outputs).numpy()[np.ix_([0, 2, 3], [0, 2, 3])])
    assert "3 commonest classes" in panel.label


def test_easiest_and_hardest_classes() -> None:
    """The page would show images of other classes, or only those that went well."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 40)
    logits = rng.normal(0, 1, (320, 8))
    logits[np.arange(320), labels] += np.linspace(0, 3.5, 8)[labels]  # class 7 is the easiest
    outputs = Outputs.from_logits(logits, labels, list("abcdefgh"))
    galleries = {g.title: g for g in samples.data(outputs)}
    easy, hard = galleries["Easiest classes"], galleries["Hardest classes"]
    assert [s.true for s in easy.samples] == [k for k in "hgf" for _ in range(4)]
    assert sorted(s.true for s in hard.samples) == [k for k in "abc" for _ in range(4)]
    by_class = [s.probability for s in hard.samples[:4]]
    assert by_class == sorted(by_class, reverse=True)
    few = Outputs.from_logits(logits[:160], labels[:160], list("abcdefgh"))
    assert "Easiest classes" not in {g.title for g in samples.data(few)}


def test_templates_are_the_weights_of_each_class() -> None:
    """A template would be another class's, upside down, or in other colours."""
    weight = torch.zeros(3, 2 * 3 * 3)
    weight[1, 9:] = 4.0  # class 1: the second channel of 3 x 3 px
    weight = torch.cat([weight, torch.zeros(3, 9)], 1)  # three channels
    (panel,) = FIGURES["templates"].data(weight, ("a", "b", "c"), (3, 3, 3))
    assert panel.images.shape == (3, 3, 3, 3)
    assert panel.images[1, :, :, 1].tolist() == [[1.0] * 3] * 3
    assert panel.images[1, :, :, 0].tolist() == [[0.5] * 3] * 3
    assert panel.images[0, :, :, 1].tolist() == [[0.0] * 3] * 3  # below what classes share
    assert to_png(panel, FIGURES["templates"].draw).startswith(b"\x89PNG")

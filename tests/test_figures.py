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
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.figures import FIGURES, comparison, confusion, curves, reliability, samples
from levelhead.figures.canvas import _painted, shorten, to_png, to_svg
from levelhead.outputs import Outputs

NASTY = ("<script>alert(1)</script>", "\"q\" & 'r'", "חתול", "猫 $x_1$", "two\nlines", "")


def outputs(
    n: int = 300, classes: int = 6, seed: int = 0, names: Any = None, gain: float = 2.0
) -> Outputs:
    """Logits that are right in most rows."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.5
    return Outputs.from_logits(gain * logits, labels, names, ids=[f"{i}.png" for i in range(n)])


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


def panels() -> list[tuple[str, Any]]:
    """Every figure with common and extreme sources."""
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    some = outputs()
    perfect = outputs(5, 2, gain=50.0)
    sources: list[tuple[str, tuple[Any, ...]]] = [
        ("reliability", reliability.data(some, outputs(gain=0.3))),
        ("reliability", reliability.data(perfect)),
        ("confusion", confusion.data(some)),
        ("confusion", confusion.data(outputs(names=NASTY))),
        ("confusion", confusion.data(outputs(40, 2))),
        ("confusion", confusion.data(outputs(400, 20))),
        ("confusion", confusion.data(outputs(200, 21))),
        ("confusion", confusion.data(outputs(300, 600))),
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
        ("samples", samples.data(outputs(names=NASTY), {"0.png": picture[:, :, 0]})),
        ("comparison", comparison.data(study())),
        ("comparison", comparison.data(study(1, temperature_changes=False))),
        ("comparison", comparison.data(study(9))),
    ]
    return [(name, panel) for name, made in sources for panel in made]


@pytest.mark.parametrize(("name", "panel"), panels())
def test_nothing_is_cut_off_and_everything_can_be_read(name: str, panel: Any) -> None:
    """A title or label would run off the picture, or be set too small to read."""
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


def test_text_stays_text_in_any_script() -> None:
    """Class names could not be searched or copied, or `$` in one would be set as mathematics."""
    (panel,) = confusion.data(outputs(names=NASTY))
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
    """The README's pictures could not be made."""
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
    made = outputs(120, classes, seed, gain=gain)
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
    from scipy.stats import binomtest

    before, after = reliability.data(outputs(), outputs(gain=0.5))
    assert (before.title, after.title) == ("Before temperature", "After temperature")
    for panel in (before, after):
        for b in np.flatnonzero(panel.counts):
            hits = round(panel.accuracy[b] * panel.counts[b])
            ci = binomtest(hits, int(panel.counts[b])).proportion_ci(method="wilson")
            assert panel.low[b] == pytest.approx(ci.low, abs=1e-9)
            assert panel.high[b] == pytest.approx(ci.high, abs=1e-9)
    assert 0 <= before.ece[1] <= before.ece[2] <= 1


def test_confusion_agrees_with_scikit_learn() -> None:
    """Rows and columns would be swapped, or counts wrong."""
    from sklearn.metrics import confusion_matrix

    made = outputs(500, 9)
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
    """A lone mistake among 600 classes would be averaged away in the picture."""
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
        (panel,) = confusion.data(outputs(200, classes))
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
    ]
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
    """Other pictures than the worst would be shown."""
    made = outputs(400, 5, gain=1.0)
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
    """Photos of megabytes would go into the page, or small pictures be changed."""
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

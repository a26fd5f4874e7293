"""Watching: what has changed is said, what has not is not; labels are asked for where they pay."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import optimize, stats

from levelhead import Recipe, train
from levelhead.cli import run as command
from levelhead.data.appearance import appearance
from levelhead.data.corruptions import corrupt
from levelhead.decisions.shares import adjusted_count, class_shares, share_intervals
from levelhead.errors import LevelheadError
from levelhead.watching.watch import watch


def photos(folder: Path, counts: tuple[int, int], seed: int, dark: float = 1.0) -> Path:
    """Small photos of two classes: stripes across, and stripes down."""
    for number, (name, n) in enumerate(zip(("across", "down"), counts, strict=True)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            draw = np.random.default_rng([seed, number, i])
            wave = np.sin(np.arange(32) * draw.uniform(0.7, 1.1) + draw.uniform(0, 6))
            image = 128 + 25 * np.broadcast_to(wave[:, None], (32, 32)) * draw.uniform(0.3, 1)
            image = (image if number == 0 else image.T)[..., None] * draw.uniform(0.8, 1, 3)
            image = image + draw.normal(0, 25, (32, 32, 3))
            pixels = (dark * image).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}-{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose body stood still, on stripes."""
    root = tmp_path_factory.mktemp("watch")
    data = photos(root / "photos", (150, 150), 0)
    recipe = Recipe(
        str(data), model="lite0", image_size=32, validation=0.3, test=0.35, device="cpu"
    )
    return train(recipe, root / "run").folder


def test_nothing_has_changed(trained: Path, tmp_path: Path) -> None:
    """Every day would raise an alarm, and nobody would look any more."""
    new = photos(tmp_path / "new", (50, 50), 1)
    result = watch(trained, new, seed=3)
    assert not result.alarm, result.words
    assert "cannot be told from the" in result.words[0]
    assert len(result.new) == 100


def test_a_darker_lens(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The promises would be believed for images that they are not for."""
    new = photos(tmp_path / "new", (30, 30), 1, dark=0.5)
    (tmp_path / "new" / "broken.png").write_bytes(b"no")
    out = tmp_path / "out"
    assert command(["watch", str(trained), str(new), "--out", str(out), "--next", "7"]) == 1
    said = capsys.readouterr()
    assert "Brightness: darker, median" in said.out
    assert "broken.png: not an image; left out" in said.err
    found = json.loads((out / "findings.json").read_text())
    design = Path(__file__).parents[2] / "docs" / "design.md"
    section = design.read_text(encoding="utf-8").split("\n### watch\n")[1].strip().split("\n\n")[0]
    assert sorted(found) == sorted(section.replace("`", "").split()), "docs/design.md"
    assert found["alarm"]
    assert len(found["label_next"]) == 7
    rows = list(csv.DictReader((out / "label_next.csv").read_text().splitlines()))
    assert [row["rank"] for row in rows] == [str(i) for i in range(1, 61)]
    assert len({row["cluster"] for row in rows[:7]}) == 7, "the first are one of each cluster"
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == 7
    assert "darker" in page


def test_other_shares(trained: Path, tmp_path: Path) -> None:
    """A run of one class would be taken for another camera."""
    result = watch(trained, photos(tmp_path / "new", (10, 110), 1))
    names = [change.name for change in result.changed]
    assert "predicted classes" in names
    assert not {"brightness", "none of mine"} & {*names}
    down = result.shares[1]
    assert down.low <= 110 / 120 <= down.high
    assert any("If the shares of the classes alone have changed: " in w for w in result.words)


def test_images_of_the_run_are_left_out(trained: Path, tmp_path: Path) -> None:
    """What was trained on looks surer than anything new: no change would be seen."""
    own = trained.parent / "photos"
    with pytest.raises(LevelheadError, match="one of the run's own"):
        watch(trained, own)
    new = photos(tmp_path / "new", (6, 6), 1)
    result = watch(trained, [new, own / "across"])
    assert (len(result.new), result.known) == (12, 150)
    assert "150 images of the run itself left out" in result.words[0]
    assert "only large changes" in result.words[1]


def test_labels_say_whether_promises_hold(trained: Path, tmp_path: Path) -> None:
    """A promise long broken would go on being made."""
    new = photos(tmp_path / "new", (60, 60), 1)
    paths = sorted(new.rglob("*.png"))
    np.random.default_rng(0).shuffle(paths)
    right, swapped = tmp_path / "right.csv", tmp_path / "swapped.csv"
    other = {"across": "down", "down": "across"}
    right.write_text("path,label\n" + "".join(f"{p},{p.parent.name}\n" for p in paths))
    swapped.write_text("".join(f"{p.name},{other[p.parent.name]}\n" for p in paths))
    good = watch(trained, new, labels=right)
    assert good.promises
    assert not any(one.broken for one in good.promises), good.words
    assert [one.n for one in good.promises if one.name == "sets"] == [120]
    bad = watch(trained, new, labels=swapped)
    broken = {one.name: one.after for one in bad.promises if one.broken}
    assert {"answers", "sets"} & {name.split(" ")[0] for name in broken}
    assert all(after is not None and after < 60 for after in broken.values())
    assert any("was promised: broken" in sentence for sentence in bad.words)
    assert len(bad.queue.order) == 0, "what is labelled need not be labelled"


def test_bad_labels(trained: Path, tmp_path: Path) -> None:
    """A label of another image, or a misspelt one, would break or keep a promise."""
    new = photos(tmp_path / "new", (2, 2), 1)
    (new / "across" / "same.png").write_bytes((new / "across" / "across-0.png").read_bytes())
    (new / "down" / "same.png").write_bytes((new / "down" / "down-0.png").read_bytes())
    file = tmp_path / "labels.csv"
    cases = {
        "path,label\nnone.png,down\n": "line 2: 'none.png' is none of the images",
        "same.png,down\n": "is the name of several images",
        "down-0.png,up\n": "line 1",
        "down-0.png,down\ndown-0.png,down\n": "line 2: 'down-0.png' occurs twice",
        "down-0.png\n": "1 cells",
        "path,label\ndown-0.png,\n": "holds no label",
    }
    for text, reason in cases.items():
        file.write_text(text)
        with pytest.raises(LevelheadError, match=reason):
            watch(trained, new, labels=file)
    for flags, reason in ((["--level", "1"], "--level 1"), (["--next", "0"], "--next 0")):
        assert command(["watch", str(trained), str(new), *flags, "--out", str(tmp_path / "o")]) == 2
        assert reason


def test_without_the_runs_images(trained: Path, tmp_path: Path) -> None:
    """A run that was copied elsewhere could not be watched."""
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    recipe = (copy / "recipe.toml").read_text()
    (copy / "recipe.toml").write_text(recipe.replace("photos", "moved"))
    result = watch(copy, photos(tmp_path / "new", (20, 20), 1))
    assert "brightness" not in {change.name for change in result.changes}
    assert any("have moved" in sentence for sentence in result.words)


def test_looks_are_what_they_are_called() -> None:
    """ "Darker" would be said of brighter images."""
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    images = gaussian_filter(rng.uniform(0, 255, (5, 40, 40, 3)), (0, 1, 1, 0)).astype(np.uint8)
    plain = appearance(images)
    changes = {
        "brightness": ("brightness", 1),
        "contrast": ("contrast", -1),
        "gaussian_blur": ("sharpness", -1),
        "gaussian_noise": ("sharpness", 1),
    }
    for kind, (name, sign) in changes.items():
        other = appearance(corrupt(images, kind))
        assert (sign * (other[name] - plain[name]) > 0).all(), kind
    grey = appearance(images[..., :1])
    assert (grey["saturation"] == 0).all()
    flat = appearance(np.full((1, 2, 2, 3), 255, np.uint8))
    assert (flat["brightness"][0], flat["contrast"][0]) == (1, 0)


def test_shares_are_the_likeliest() -> None:
    """Expectation maximisation that stops early, or weighs wrongly, would name other shares."""
    rng = np.random.default_rng(0)
    prior, truth = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    # Three classes that a feature of one dimension tells apart, but not well.
    labels = rng.choice(3, 1500, p=truth)
    x = rng.normal(labels * 1.2, 1)
    densities = np.exp(-((x[:, None] - 1.2 * np.arange(3)) ** 2) / 2)
    posterior = prior * densities
    posterior /= posterior.sum(1, keepdims=True)

    def loss(z: np.ndarray) -> float:
        shares = np.exp(np.append(z, 0))
        return -float(np.log((densities * shares / shares.sum()).sum(1)).mean())

    z = np.append(optimize.minimize(loss, np.zeros(2), tol=1e-10).x, 0)
    wanted = np.exp(z) / np.exp(z).sum()
    ours = class_shares(posterior, prior)
    np.testing.assert_allclose(ours, wanted, atol=1e-3)
    before = rng.choice(3, 1500, p=prior)
    z = np.exp(-((rng.normal(before * 1.2, 1)[:, None] - 1.2 * np.arange(3)) ** 2) / 2) * prior
    known = z / z.sum(1, keepdims=True)
    value, low, high = share_intervals(known, before, posterior, draws=60)
    np.testing.assert_allclose(value, ours, atol=0.03)
    assert (low <= value).all()
    assert (value <= high).all()
    assert ((low <= truth) & (truth <= high)).all()
    # Probabilities that are wrong by a factor a class still give the shares.
    crooked = [rows * [1, 3, 0.5] for rows in (known, posterior)]
    crooked = [rows / rows.sum(1, keepdims=True) for rows in crooked]
    value, low, high = share_intervals(crooked[0], before, crooked[1], draws=60)
    np.testing.assert_allclose(value, truth, atol=0.06)
    own = np.bincount(before, minlength=3) / len(before)
    np.testing.assert_allclose(adjusted_count(known, before, known), own, atol=1e-6)


def test_intervals_of_shares_hold() -> None:
    """A rare class that the new images lack by chance would have the interval [0, 0]."""
    rng, prior, held = np.random.default_rng(1), np.array([0.57, 0.38, 0.05]), np.zeros(3)
    for seed in range(60):
        sides = []
        for n in (250, 60):
            labels = rng.choice(3, n, p=prior)
            x = rng.normal(labels * 1.5, 1)
            p = prior * np.exp(-((x[:, None] - 1.5 * np.arange(3)) ** 2) / 2)
            sides.append((p / p.sum(1, keepdims=True), labels))
        _, low, high = share_intervals(*sides[0], sides[1][0], draws=60, seed=seed)
        held += (low <= prior) & (prior <= high)
    assert (held >= stats.binom.ppf(0.001, 60, 0.95)).all(), held

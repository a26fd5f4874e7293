"""Predictions as people write them: labels, columns, dialects, scores that are defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.labels import number, positions, same, spelling
from levelhead.outputs import Outputs
from levelhead.outputs.read import read_people, read_predictions

RNG = np.random.default_rng(0)
N, K, NAMES = 60, 3, ["cat", "dog", "owl"]
Z = RNG.normal(0, 2, (N, K))
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
Y = np.array([RNG.choice(K, p=row) for row in P])
RIGHT = float((P.argmax(1) == Y).mean())


def accuracy(outputs: Outputs) -> float:
    return float(outputs.rows.correct.mean())


def npz(folder: Path, **arrays: object) -> Outputs:
    np.savez(folder / "p.npz", **arrays)  # type: ignore[arg-type]
    return read_predictions(folder / "p.npz")


def table(folder: Path, lines: list[list[object]], kind: str, sep: str = ",") -> Outputs:
    path = folder / "p.csv"
    path.write_text("".join(sep.join(map(str, line)) + "\n" for line in lines))
    return read_predictions(path, kind)  # type: ignore[arg-type]


# A: labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "values"),
    [([1, 2, 3], [1, 2, 3]), ([0, 2, 4], [0, 2, 4]), (["7", "8", "9"], [7.0, 8.0, 9.0])],
)
def test_class_values_that_are_numbers_are_names(classes, values, tmp_path):
    """scikit-learn's classes_ = [1, 2, 3] would be judged one class off: 16 % instead of 68 %."""
    labels = np.array(values)[Y]
    for kept in (np.ones(N, bool), Y < 2):  # all classes; the last does not occur
        found = [
            npz(tmp_path, probabilities=P[kept], labels=labels[kept], classes=np.array(classes)),
            Outputs.from_probabilities(P[kept], labels[kept], np.array(classes)),
            Outputs.from_logits(Z[kept], torch.tensor(labels[kept]), classes),
        ]
        for outputs in found:
            assert outputs.labels.tolist() == Y[kept].tolist()
            assert outputs.class_names == tuple(map(str, classes))


def test_positions_stay_positions(tmp_path):
    """Labels 0 … K−1 of named classes would be refused."""
    for labels in (Y, Y[:, None], Y.astype(float), Y.astype(np.uint8), Y.tolist()):
        assert Outputs.from_probabilities(P, labels, NAMES).labels.tolist() == Y.tolist()
    assert npz(tmp_path, probabilities=P, labels=Y[:, None]).labels.tolist() == Y.tolist()
    some = np.maximum(Y, 1)
    found = npz(tmp_path, probabilities=P, labels=some[:, None])
    assert found.labels.tolist() == some.tolist()


def test_what_levelhead_saved_holds_positions(tmp_path):
    """A run of classes "1", "2", "3" would be read back one class off."""
    outputs = Outputs("logits", torch.from_numpy(Z), torch.from_numpy(Y % 2 + 1), ("1", "2", "3"))
    outputs.save(tmp_path / "p.safetensors")
    back = read_predictions(tmp_path / "p.safetensors")
    assert torch.equal(back.labels, outputs.labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([b"cat", b"dog", b"owl"])[Y],
        [" cat", "dog ", "owl"],
        ["Cat", "DOG", "owl"],
        np.array(NAMES, object)[Y],
    ],
    ids=["bytes", "spaces", "case", "objects"],
)
def test_names_in_other_spellings(labels):
    """HDF5's bytes or a space after a comma would be classes of their own."""
    labels = labels if len(labels) == N else [labels[k] for k in Y]
    assert Outputs.from_probabilities(P, labels, NAMES).labels.tolist() == Y.tolist()


SURE = RNG.uniform(0.5, 1, 100)
TRUE = RNG.integers(0, 3, 100)
SAID = np.where(RNG.random(100) < SURE, TRUE, (TRUE + 1) % 3)


def log(folder: Path, say, label) -> Outputs:
    lines = [["prediction", "confidence", "label"]]
    lines += [[say(SAID[i]), f"{SURE[i]:.6f}", label(TRUE[i])] for i in range(100)]
    return table(folder, lines, "confidence")


@pytest.mark.parametrize(
    ("say", "label"),
    [
        (int, float),
        (lambda k: NAMES[k], lambda k: f" {NAMES[k]}"),
        (lambda k: NAMES[k].upper(), lambda k: NAMES[k]),
        (lambda k: f"0{k}", int),
    ],
    ids=["float", "space", "case", "zeros"],
)
def test_logs_in_two_spellings_are_one(say, label, tmp_path):
    """1.0 against 1 would be accuracy 0 of "6 classes", and "77 points too sure"."""
    outputs = log(tmp_path, say, label)
    assert outputs.classes == 3
    assert accuracy(outputs) == pytest.approx(np.mean(SAID == TRUE))


def test_logs_that_cannot_be_matched_are_refused(tmp_path):
    """Names against positions would be 0 % right, without a word; gaps a class of their own."""
    with pytest.raises(LevelheadError, match="no prediction is ever a label: labels are 0, 1, 2"):
        log(tmp_path, lambda k: NAMES[k], int)
    with pytest.raises(LevelheadError, match="line 2: no label; fill it in"):
        log(tmp_path, lambda k: NAMES[k], lambda k: "")
    with pytest.raises(LevelheadError, match=r"row 1: no label"):
        Outputs.from_probabilities(P[:3], [0.0, np.nan, 1.0])
    with pytest.raises(LevelheadError, match=r"labels: shape \(60, 2\); must be \[60\]"):
        Outputs.from_probabilities(P, np.zeros((N, 2)))


def test_two_classes_that_differ_in_capitals_stay_two():
    """ "a" and "A" of a letter data set would become one class."""
    assert same([["a", "A"], ["a", "a"]]) == [["a", "A"], ["a", "a"]]
    assert positions(["a", "A"], ("A", "a"), str).tolist() == [1, 0]
    with pytest.raises(LevelheadError, match="'B' is no class"):
        positions(["a", "B"], ("A", "a"), str)


@given(st.lists(st.sampled_from(["x", "y1", "2", "03"]), min_size=1), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_any_spelling_of_names_gives_their_positions(names, how):
    """Trimming, bytes or capitals would move a label to another class."""
    classes = ("03", "2", "x", "y1")
    write = (str, lambda s: f" {s}\t", str.upper, lambda s: s.encode())[how]
    text = [spelling(write(name)) for name in names]
    assert positions(text, classes, str).tolist() == [classes.index(name) for name in names]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (True, "1"), (None, ""), (float("nan"), ""), (b" a ", "a"), (0.5, "0.5")],
)
def test_spelling(value, text):
    """One label would have as many names as there are file formats."""
    assert spelling(value) == text
    assert number("01") == number("1.0") == number("+1") == "1"
    assert number("1_0") == "1_0"


# B: columns and dialects -------------------------------------------------------------------------


def rows(*extra: tuple[str, list[object]], scores=Z) -> list[list[object]]:
    head = [name for name, _ in extra] + NAMES + ["label"]
    cells = [values for _, values in extra]
    return [head] + [[*(v[i] for v in cells), *scores[i], NAMES[Y[i]]] for i in range(N)]


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "index"])
def test_a_row_index_is_left_out_and_said(name, tmp_path):
    """pandas' index would be one more class: accuracy 3 %."""
    outputs = table(tmp_path, rows((name, list(range(N)))), "logits")
    assert (outputs.class_names, accuracy(outputs)) == (tuple(NAMES), pytest.approx(RIGHT))
    assert any("numbers the rows: left out" in note for note in outputs.notes)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("fold", [i % 5 for i in range(N)]),
        ("loss", [3.0] * N),
        ("run", [0.25] * N),
        ("entropy", RNG.random(N).tolist()),
    ],
)
def test_columns_that_are_no_class_are_refused(name, values, tmp_path):
    """The number of the fold would be one more class of logits, without a word."""
    with pytest.raises(LevelheadError, match=f"the column '{name}' would be a class, but no label"):
        table(tmp_path, rows((name, values)), "logits")
    lines = rows((name, values))
    lines = [lines[0]] + [[*line[:-1], NAMES.index(line[-1]) + 1] for line in lines[1:]]
    if name in ("fold", "loss"):  # positions do not name a class
        with pytest.raises(LevelheadError, match=f"the column '{name}' would be a class"):
            table(tmp_path, lines, "logits")


def test_classes_that_do_not_occur_stay(tmp_path):
    """A class of which no example is there would be taken for a stray column."""
    few = [line for line in rows() if line[-1] != "owl"]
    assert table(tmp_path, few, "logits").class_names == tuple(NAMES)
    whole = [[*np.round(line[:-1]).astype(int), line[-1]] for line in few[1:]]
    assert table(tmp_path, [few[0], *whole], "logits").classes == 3


def written(sep: str = ",", decimal: str = ".", encoding: str = "utf-8") -> bytes:
    text = "".join(
        sep.join([*(str(v).replace(".", decimal) if i else str(v) for v in line[:-1]), line[-1]])
        + "\n"
        for i, line in enumerate(rows(scores=P))
    )
    return text.encode(encoding)


@pytest.mark.parametrize(
    ("sep", "decimal", "encoding"),
    [
        (";", ".", "utf-8"),
        (";", ",", "utf-8"),
        ("\t", ".", "utf-8"),
        (", ", ".", "utf-8"),
        (" , ", ".", "utf-8-sig"),
        (",", ".", "utf-16"),
        ("\t", ",", "utf-16-le"),
    ],
)
def test_dialects(sep, decimal, encoding, tmp_path):
    """What Excel saves in half of Europe would be "no column 'label'"."""
    (tmp_path / "p.csv").write_bytes(written(sep, decimal, encoding))
    outputs = read_predictions(tmp_path / "p.csv", "probabilities")
    assert outputs.class_names == tuple(NAMES)
    assert np.allclose(outputs.scores, P)
    assert outputs.labels.tolist() == Y.tolist()


def test_a_bad_line_of_utf16_is_named(tmp_path):
    """The line would be counted in bytes that are no lines."""
    text = written(encoding="utf-16").decode("utf-16").replace("owl\n", "cow\n")
    (tmp_path / "p.csv").write_bytes(text.encode("utf-16"))
    line = 2 + int(np.flatnonzero(Y == 2)[0])
    with pytest.raises(LevelheadError, match=f"line {line}: the label 'cow' is no class"):
        read_predictions(tmp_path / "p.csv", "probabilities")


def test_counts_of_people_in_any_dialect_and_order(tmp_path):
    """Counts under a header would be refused, or go to other classes."""
    outputs = Outputs.from_probabilities(P[:2], Y[:2], NAMES)
    (tmp_path / "p.csv").write_text("owl;cat;dog\n1;2;0,5\n0;0;3\n")
    shares = read_people(tmp_path / "p.csv", outputs)
    assert np.allclose(shares, np.array([[2, 0.5, 1], [0, 3, 0]]) / [[3.5], [3]])


# G: answers that are defined ---------------------------------------------------------------------


def test_masked_logits_are_probability_zero(tmp_path):
    """Logits of classes that cannot be (−inf) would be refused."""
    masked = np.where((np.arange(K) == 2) & (Y[:, None] != 2), -np.inf, Z)
    outputs = npz(tmp_path, logits=masked, labels=Y)
    expected = np.exp(masked) / np.exp(masked).sum(1, keepdims=True)
    assert np.allclose(outputs.probabilities(), expected)
    assert np.allclose(outputs.rows.nll, -np.log(expected[np.arange(N), Y]))
    assert bool(outputs.rows.entropy.isfinite().all())
    assert any("−inf" in note for note in outputs.notes)
    for bad, says in ((np.inf, "an infinite value"), (np.nan, "NaN")):
        with pytest.raises(LevelheadError, match=says):
            npz(tmp_path, logits=np.where(masked == -np.inf, bad, masked), labels=Y)
    with pytest.raises(LevelheadError, match="the label's own logit is −inf"):
        npz(tmp_path, logits=masked, labels=np.full(N, 2))


def test_calibrators_bear_masked_logits():
    """−inf would turn every fit into NaN."""
    from levelhead.calibrators import CALIBRATORS

    masked = np.where((np.arange(K) == 2) & (Y[:, None] != 2), -np.inf, Z)
    outputs = Outputs.from_logits(masked, Y)
    for name, entry in CALIBRATORS.items():
        if entry.only == 2 or name in ("matrix", "dirichlet"):
            with pytest.raises(LevelheadError, match=r"exactly 0|is for 2 classes"):
                entry.fit_outputs(outputs)
            continue
        fitted = entry.fit_outputs(outputs)
        assert bool(fitted.apply(outputs).probabilities().isfinite().all()), name


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_rounded_probabilities(digits, tmp_path):
    """What a service logs with two digits would "add up to 1.01, not 1"."""
    outputs = npz(tmp_path, probabilities=P.round(digits), labels=Y)
    assert np.allclose(outputs.probabilities().sum(1), 1)
    if np.abs(P.round(digits).sum(1) - 1).max() > 1e-3:
        assert any(f"rounded to {digits} digits" in note for note in outputs.notes)
    with pytest.raises(LevelheadError, match="add up to"):
        npz(tmp_path, probabilities=np.abs(Z), labels=Y)
    with pytest.raises(LevelheadError, match="add up to"):
        npz(tmp_path, probabilities=np.where(P.round(2) > 0.5, 0.5, P.round(2)), labels=Y)


def test_one_column_is_the_second_of_two_classes(tmp_path):
    """A column P(positive), the commonest table of two classes, would be "1 class"."""
    q, t = P[:, 1] / (P[:, 0] + P[:, 1]), (Y == 1).astype(int)
    z = np.log(q / (1 - q))
    lines = [["id", "prob", "label"], *([i, q[i], t[i]] for i in range(N))]
    words = [["id", "spam", "label"], *([i, q[i], ("ham", "spam")[t[i]]] for i in range(N))]
    found = [
        npz(tmp_path, probabilities=q, labels=t),
        npz(tmp_path, probabilities=q[:, None], labels=t),
        npz(tmp_path, logits=z[:, None], labels=t),
        Outputs.from_logits(z, t.astype(bool)),
        Outputs.from_probabilities(q, np.array(["no", "yes"])[t], ["no", "yes"]),
        table(tmp_path, lines, "probabilities"),
        table(tmp_path, words, "probabilities"),
    ]
    for outputs in found:
        assert np.allclose(outputs.probabilities()[:, 1], q)
        assert outputs.labels.tolist() == t.tolist()
        assert any("One column of" in note for note in outputs.notes)
    assert found[-1].class_names == ("ham", "spam")
    lines = [["prob", "label"], *([q[i], ("ham", "spam")[t[i]]] for i in range(N))]
    with pytest.raises(LevelheadError, match="call it by the class whose score it is"):
        table(tmp_path, lines, "probabilities")

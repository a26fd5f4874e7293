"""Outputs: validation, the two kinds, files in and out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.outputs.read import read_predictions

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.5], [0.0, 0.0, 4.0]], np.float32)
LABELS = np.array([0, 1, 1, 2])
CSV = "cat,dog,label\n0.9,0.1,cat\n0.2,0.8,dog\n"


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z.astype(np.float64) - z.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_both_kinds_tell_the_same_rows():
    """Logits and their softmax would be judged as different models."""
    p = softmax(LOGITS)
    for outputs in (Outputs.from_logits(LOGITS, LABELS), Outputs.from_probabilities(p, LABELS)):
        rows, one_hot = outputs.rows, np.eye(3)[LABELS]
        np.testing.assert_allclose(outputs.probabilities(), p, rtol=1e-12)
        np.testing.assert_allclose(outputs.log_probabilities(), np.log(p), rtol=1e-12)
        np.testing.assert_allclose(rows.nll, -np.log(p[range(4), LABELS]), rtol=1e-12)
        np.testing.assert_allclose(rows.brier, ((p - one_hot) ** 2).sum(1), rtol=1e-12)
        np.testing.assert_allclose(rows.confidence, p.max(1), rtol=1e-12)
        assert rows.prediction.tolist() == p.argmax(1).tolist()
        assert rows.correct.tolist() == [1, 1, 0, 1]  # the tie of row 2 goes to the first class


def test_takes_anything_that_holds_numbers():
    """Lists, read-only, half-precision, big-endian or device tensors would need conversion code."""
    frozen = LOGITS.copy()
    frozen.flags.writeable = False
    for scores in (LOGITS.tolist(), frozen, LOGITS.astype(np.float16), LOGITS.astype(">f4")):
        outputs = Outputs.from_logits(scores, LABELS.astype(np.uint16))
        assert outputs.predictions().tolist() == [0, 1, 0, 2]
    assert Outputs.from_logits(torch.tensor(LOGITS, requires_grad=True), LABELS).classes == 3
    assert Outputs.from_logits(LOGITS, LABELS.astype(np.float32)).labels.dtype == torch.int64


def test_probabilities_that_nearly_add_up_are_renormalised():
    """Rounded probabilities would give an NLL that is a little wrong."""
    outputs = Outputs.from_probabilities([[0.5003, 0.5001], [0.25, 0.75]], [0, 1])
    assert outputs.probabilities().sum(1).tolist() == pytest.approx([1, 1], abs=1e-15)
    assert outputs.rows.nll[0].item() == pytest.approx(-np.log(0.5003 / 1.0004), abs=1e-6)


def test_tiny_float64_probabilities_survive():
    """Rounding 1e-200 to float32's 0 would make the NLL infinite."""
    outputs = Outputs.from_probabilities(np.array([[1e-200, 1 - 1e-200]]), [0])
    assert outputs.rows.nll.item() == pytest.approx(200 * np.log(10))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": np.where(LOGITS == 4, np.nan, LOGITS)}, "row 3: NaN"),
        ({"scores": np.where(LOGITS == 3, np.inf, LOGITS)}, "row 1: an infinite value"),
        ({"labels": [0, 1, 3, 2]}, "row 2: the label 3 is out of range; labels run from 0 to 2"),
        ({"labels": [0, -1, 1, 2]}, "row 1: the label -1 is out of range"),
        ({"labels": [0, 1.5, 1, 2]}, "row 1: the label 1.5 is no whole number"),
        (
            {"labels": ["a", "b", "c", "d"]},
            "row 0: the label 'a' is no class; give one of the names 0, 1",
        ),
        ({"labels": [0, 1]}, r"labels: shape \(2,\) for 4 rows"),
        ({"scores": LOGITS[0]}, r"labels: shape \(4,\) for 3 rows"),
        ({"scores": LOGITS[None]}, r"logits: shape \(1, 4, 3\); must be \[N, K\]"),
        ({"scores": LOGITS[:, :1]}, "the label 2 is out of range; labels run from 0 to 1"),
        ({"scores": LOGITS[:0], "labels": []}, "no rows"),
        ({"class_names": ["a", "b"]}, "class names: 2 for 3 columns"),
        ({"ids": ["a", "b", "a", "c"]}, "row 2: the id 'a' stands in row 0 too"),
        ({"ids": ["a"]}, "ids: 1 for 4 rows"),
        ({"features": np.zeros((3, 2))}, r"features: shape \(3, 2\); must be \[4, D\]"),
        ({"head_weight": np.zeros((2, 5))}, r"head_weight: shape \(2, 5\); must be \[3, D\]"),
    ],
)
def test_bad_logits_are_refused_by_row(change, says):
    """A broken row would poison every number, or crash far from its cause."""
    given_ = {"scores": LOGITS, "labels": LABELS} | change
    with pytest.raises(LevelheadError, match=says):
        Outputs.from_logits(**given_)


def test_bad_probabilities_are_refused_by_row():
    """Logits taken for probabilities would be judged as if they were."""
    with pytest.raises(LevelheadError, match=r"row 1: the probabilities add up to 1\.2, not 1"):
        Outputs.from_probabilities([[0.5, 0.5], [0.5, 0.7]], [0, 1])
    with pytest.raises(LevelheadError, match=r"row 0: the probability -0\.5 is negative"):
        Outputs.from_probabilities([[-0.5, 1.5]], [0])
    assert Outputs.from_logits(softmax(LOGITS), LABELS).look_like_probabilities()
    assert not Outputs.from_logits(LOGITS, LABELS).look_like_probabilities()


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_safetensors_round_trip(kind, tmp_path):
    """A run's outputs would come back changed."""
    scores = LOGITS if kind == "logits" else softmax(LOGITS)
    outputs = getattr(Outputs, f"from_{kind}")(
        scores,
        LABELS,
        ["Käse", '"q"', "c"],
        ids=["a", "b", "c", "d"],
        features=np.ones((4, 2)),
        head_weight=np.ones((3, 2)),
        head_bias=np.ones(3),
        split="test",
        split_hash="ff",
    )
    path = tmp_path / "deep" / "test.safetensors"
    outputs.save(path)
    back = read_predictions(path)
    for name in ("kind", "class_names", "ids", "split", "split_hash"):
        assert getattr(back, name) == getattr(outputs, name)
    for name in ("scores", "labels", "features", "head_weight", "head_bias"):
        assert torch.equal(getattr(back, name), getattr(outputs, name))
    assert [p.name for p in path.parent.iterdir()] == ["test.safetensors"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LevelheadError, match="not a whole safetensors file"):
        read_predictions(path)


def test_take_keeps_what_belongs_to_a_row():
    """Half of the examples would carry the ids of the other half."""
    outputs = Outputs.from_logits(LOGITS, LABELS, ids="abcd", split="test", split_hash="ff")
    part = outputs.take([3, 1])
    assert (part.ids, part.labels.tolist(), part.split_hash) == (("d", "b"), [2, 1], None)


def test_npz(tmp_path):
    """Predictions as NumPy users save them would not be read, or be guessed at."""
    path = tmp_path / "p.npz"
    np.savez(path, logits=LOGITS, labels=LABELS, classes=["a", "b", "c"], ids=np.arange(4))
    outputs = read_predictions(path)
    assert (outputs.kind, outputs.class_names) == ("logits", ("a", "b", "c"))
    assert outputs.ids == ("0", "1", "2", "3")
    with pytest.raises(LevelheadError, match=r"p\.npz: holds logits, not probabilities"):
        read_predictions(path, "probabilities")
    np.savez(path, probabilities=softmax(LOGITS), labels=["a", "b", "b", "c"], classes=list("abc"))
    assert read_predictions(path, "probabilities").labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"logits": LOGITS, "probabilities": LOGITS, "labels": LABELS}, "holds both logits and"),
        ({"scores": LOGITS, "labels": LABELS}, "holds neither logits nor probabilities"),
        ({"logits": LOGITS}, "holds no array 'labels'"),
        ({"logits": LOGITS, "labels": np.array([{}] * 4)}, "not an npz of plain arrays"),
        ({"logits": LOGITS, "labels": LABELS, "classes": ["a"]}, "class names: 1 for 3"),
    ],
)
def test_bad_npz_is_refused_by_name(arrays, says, tmp_path):
    """A wrong file would be guessed at, or unpickled."""
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(LevelheadError, match=rf"p\.npz: {says}"):
        read_predictions(tmp_path / "p.npz")


def test_csv(tmp_path):
    """A table with a column a class would not be read; columns about the row become classes."""
    text = (
        "path,cat,dog,prediction,confidence,decision,group,label\n"
        '"a, b.png",0.9,0.1,cat,0.9,accept,1,cat\n\nc.png,0.2,0.8,dog,0.8,accept,2,dog\n'
    )
    outputs = read_predictions(written(tmp_path, "p.csv", text), "probabilities")
    assert (outputs.class_names, outputs.ids) == (("cat", "dog"), ("a, b.png", "c.png"))
    assert outputs.labels.tolist() == [0, 1]
    assert outputs.scores.tolist() == [[0.9, 0.1], [0.2, 0.8]]


def test_csv_labels_names_win_over_positions(tmp_path):
    """Digits named 1, 0 would be read as positions and every label be wrong."""
    path = written(tmp_path, "p.csv", "1,0,label\n5,2,1\n3,4,0\n")
    assert read_predictions(path, "logits").labels.tolist() == [0, 1]
    path = written(tmp_path, "p.csv", "a,b,label\n5,2,1\n3,4,0\n")
    assert read_predictions(path, "logits").labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CSV.replace("0.8,dog", "0.8,cow"), "line 3: the label 'cow' is no class"),
        ("a,b,label\n\n1,2,0\n\n1,2,2\n", "line 5: the label '2' is no class"),
        (CSV.replace(",dog\n", ",1\n"), "line 3: the label '1' is no class"),
        (CSV.replace("0.8", "1.8"), "line 3: the probabilities add up to 2, not 1"),
        (CSV.replace("0.8", ""), "line 3: NaN"),
        (CSV.replace("0.8", "x"), "the column 'dog' is no numbers .*'x'"),
        (CSV.replace("0.8,dog", "0.8"), "not a table of numbers .*Expected 3 columns"),
        (CSV.replace("label", "truth"), "no column 'label' among cat, dog, truth"),
        (CSV.replace("dog,label", "cat,label"), "the column 'cat' occurs twice"),
        ("cat,label\n1,owl\n", "one column of scores, 'cat', for the labels owl"),
        ("cat,dog,label\n", "probabilities: no rows"),
        (",cat,dog,label\nx,0.9,0.1,cat\n", "a column without a name numbers no rows"),
        ("", "not a table"),
        ("id,cat,dog,label\nx,1,0,cat\nx,1,0,cat\n", "row 1: the id 'x' stands in row 0 too"),
    ],
)
def test_bad_csv_is_refused_by_line(text, says, tmp_path):
    """A person would have to search a long file for the line that is wrong."""
    with pytest.raises(LevelheadError, match=rf"p\.csv: {says}") as caught:
        read_predictions(written(tmp_path, "p.csv", text), "probabilities")
    assert "\n" not in str(caught.value)


def test_a_table_without_its_kind_says_which_flag_to_add(tmp_path):
    """Logits and probabilities would be told apart by guessing."""
    with pytest.raises(LevelheadError, match="add --logits, --probabilities or --confidence"):
        read_predictions(written(tmp_path, "p.csv", CSV))


def test_gzip_and_parquet_read_like_csv(tmp_path):
    """The same table would be judged differently by its container."""
    import gzip

    import pyarrow as pa
    from pyarrow import parquet

    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        file.write(CSV)
    table = {"cat": [0.9, 0.2], "dog": [0.1, 0.8], "label": [0, 1]}
    parquet.write_table(pa.table(table), tmp_path / "p.parquet")
    for name in ("p.csv.gz", "p.parquet"):
        outputs = read_predictions(tmp_path / name, "probabilities")
        assert outputs.scores.tolist() == [[0.9, 0.1], [0.2, 0.8]]
        assert outputs.labels.tolist() == [0, 1]
    parquet.write_table(pa.table(table | {"note": ["x", "y"]}), tmp_path / "p.parquet")
    with pytest.raises(LevelheadError, match="the column 'note' is no numbers"):
        read_predictions(tmp_path / "p.parquet", "logits")


def test_files_that_are_none_are_named(tmp_path):
    """A missing, foreign or damaged file would end in a traceback."""
    for name, says in (("no.npz", "no such file"), ("x.txt", "cannot be read as predictions")):
        with pytest.raises(LevelheadError, match=says):
            read_predictions(tmp_path / name)
    for name in ("bad.npz", "bad.safetensors", "bad.parquet"):
        with pytest.raises(LevelheadError, match=f"{name}: not a"):
            read_predictions(written(tmp_path, name, "rubbish"), "logits")


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-1e3, 1e3), seed=st.integers(0, 99))
def test_a_constant_added_to_a_row_changes_nothing(shift, seed):
    """Logits are known up to a constant: two exports of one model would differ."""
    z = np.random.default_rng(seed).normal(size=(20, 5)) * 5
    y = np.arange(20) % 5
    one, two = Outputs.from_logits(z, y).rows, Outputs.from_logits(z + shift, y).rows
    np.testing.assert_allclose(one.nll, two.nll, atol=1e-9)
    np.testing.assert_allclose(one.confidence, two.confidence, atol=1e-9)


def test_somebody_elses_network_is_read_right(real_data):
    """The public ResNet-56's predictions would not give its known accuracy and NLL."""
    path = real_data("predictions") / "resnet56_cifar10_test.npz"
    for outputs in (
        read_predictions(path),
        read_predictions(path.with_suffix(".csv"), "probabilities"),
    ):
        assert outputs.rows.correct.mean().item() == pytest.approx(0.9339)
        assert outputs.rows.nll.mean().item() == pytest.approx(0.3458, abs=5e-5)
        assert outputs.rows.confidence.mean().item() == pytest.approx(0.980, abs=5e-4)
    weights = path.with_name("resnet56_cifar10.safetensors")
    with pytest.raises(LevelheadError, match="holds neither logits nor probabilities"):
        read_predictions(weights)


def test_header_is_plain_json(tmp_path):
    """Other programs could not read the names without unpickling something."""
    from safetensors import safe_open

    Outputs.from_logits(LOGITS, LABELS, ["a", "b", "c"]).save(tmp_path / "o.safetensors")
    with safe_open(tmp_path / "o.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["levelhead"])["classes"] == ["a", "b", "c"]
        assert set(file.keys()) == {"logits", "labels"}


def test_what_no_model_says_is_refused():
    """Absurd logits would end in an overflow far from their cause; two classes share one name."""
    with pytest.raises(LevelheadError, match=r"row 1: a logit of 1e\+31; must be at most 1e\+30"):
        Outputs.from_logits([[0.0, 1.0], [1e31, 0.0]], [0, 1])
    with pytest.raises(LevelheadError, match="class names: 'a' occurs twice"):
        Outputs.from_logits(LOGITS, LABELS, ["a", "b", "a"])

"""Predictions of other kinds: confidence alone, what annotators said, groups, big files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from levelhead.errors import LevelheadError
from levelhead.judging import judge
from levelhead.metrics import METRICS, reason
from levelhead.outputs import Outputs
from levelhead.outputs.read import (
    read_acceptable,
    read_people,
    read_predictions,
    read_superclasses,
)

LOG = "id,prediction,confidence,label,camera\na,cat,0.9,cat,1\nb,dog,0.6,cat,2\nc,dog,1,dog,2\n"


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_confidence_alone_is_judged_as_far_as_it_goes(tmp_path):
    """What a cloud service logs could not be judged, or would be taken for scores of classes."""
    outputs = read_predictions(written(tmp_path, "p.csv", LOG), "confidence", group_column="camera")
    assert (outputs.kind, outputs.class_names) == ("confidence", ("cat", "dog"))
    assert (outputs.ids, outputs.groups) == (("a", "b", "c"), ("1", "2", "2"))
    rows = outputs.rows
    assert rows.correct.tolist() == [1, 0, 1]
    assert rows.confidence.tolist() == [0.9, 0.6, 1.0]
    assert rows.log_rest.tolist() == pytest.approx([np.log(0.1), np.log(0.4), -np.inf])
    assert rows.nll.isnan().all()
    with pytest.raises(LevelheadError, match="only the prediction and its confidence"):
        outputs.probabilities()
    outputs.save(tmp_path / "p.safetensors")
    back = read_predictions(tmp_path / "p.safetensors")
    assert back.predictions().tolist() == outputs.predictions().tolist() == [0, 1, 1]
    assert (back.groups, back.class_names) == (outputs.groups, outputs.class_names)
    part = outputs.take([2, 0])
    assert (part.groups, part.predicted.tolist()) == (("2", "1"), [1, 0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LOG.replace("0.6", "1.6"), r"line 3: the confidence 1\.6 must be between 0 and 1"),
        (LOG.replace("0.6", "high"), "line 3: the confidence 'high' is no number"),
        (LOG.replace("0.6", ""), "line 3: the confidence '' is no number"),
        (LOG.replace("confidence", "p"), "no column 'confidence' among"),
    ],
)
def test_bad_logs_are_refused_by_line(text, says, tmp_path):
    """A person would have to search a long log for the line that is wrong."""
    with pytest.raises(LevelheadError, match=says):
        read_predictions(written(tmp_path, "p.csv", text), "confidence")


def test_what_people_said_comes_in_by_every_door(tmp_path):
    """Counts of annotators would be lost, or go to other classes."""
    z = np.array([[2.0, 0, 1], [0, 1, 0]])
    counts = np.array([[8, 0, 2], [1, 1, 2]])
    one = Outputs.from_logits(z, counts)
    assert one.labels.tolist() == [0, 2]
    assert one.label_distribution.tolist() == [[0.8, 0, 0.2], [0.25, 0.25, 0.5]]
    np.savez(tmp_path / "p.npz", logits=z, labels=counts)
    np.save(tmp_path / "people.npy", counts)
    text = "a,b,c,label:c,label:a,label:b\n2,0,1,2,8,0\n0,1,0,2,1,1\n"
    found = [
        read_predictions(tmp_path / "p.npz"),
        read_predictions(written(tmp_path, "p.csv", text), "logits"),
    ]
    bare = Outputs.from_logits(z, [0, 2])
    found.append(bare.with_people(read_people(tmp_path / "people.npy", bare)))
    found.append(bare.with_people(read_people(written(tmp_path, "p2.csv", "8,0,2\n1,1,2"), bare)))
    for outputs in found:
        assert outputs.labels.tolist() == [0, 2]
        assert torch.equal(outputs.label_distribution, one.label_distribution)
    found[0].save(tmp_path / "p.safetensors")
    back = read_predictions(tmp_path / "p.safetensors")
    assert torch.equal(back.label_distribution, one.label_distribution)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([[1, 2, 3]], r"shape \(1, 3\) for 2 predictions of 3 classes"),
        ([[1, 2, 3], [0, 0, 0]], "row 1: the label distribution must hold counts"),
        ([[1, 2, 3], [-1, 2, 0]], "row 1: the label distribution must hold counts"),
        ([1, 2], r"label distribution: shape \(2,\)"),
    ],
)
def test_bad_counts_are_refused(table, says, tmp_path):
    """Counts of other examples, or of nobody, would be judged against."""
    np.save(tmp_path / "people.npy", table)
    with pytest.raises(LevelheadError, match=says):
        read_people(tmp_path / "people.npy", Outputs.from_logits(np.eye(3)[:2], [0, 1]))


def test_acceptable_labels_by_every_door(tmp_path):
    """An answer that is one of an image's labels would count as wrong, or another image's count."""
    outputs = Outputs.from_logits(
        [[2.0, 0, 1], [0, 1, 0], [0, 0, 3]], [0, 2, 0], "abc", ids=("x", "y", "z")
    )
    text = "id,labels\nz,a | b\ny,c|b\nx,a\nother,c\n"
    found = [read_acceptable(written(tmp_path, "by-id.csv", text), outputs)]
    plain = Outputs.from_logits(outputs.scores, outputs.labels, "abc")
    found.append(read_acceptable(written(tmp_path, "order.csv", "labels\na\nb|c\nb|a\n"), plain))
    np.save(tmp_path / "table.npy", [[1, 0, 0], [0, 1, 1], [1, 1, 0]])
    found.append(read_acceptable(tmp_path / "table.npy", plain))
    wanted = [[True, False, False], [False, True, True], [True, True, False]]
    for table in found:
        assert table.tolist() == wanted
    judged = outputs.with_acceptable(found[0])
    metric = METRICS["multilabel_accuracy"]
    assert metric.value(metric.prepare(judged)) == {"multilabel_accuracy": pytest.approx(2 / 3)}
    assert reason(metric, outputs) == "needs the labels that are acceptable for each example " + (
        "(--acceptable)"
    )
    assert judged.take([2, 1]).acceptable.tolist() == [wanted[2], wanted[1]]
    judged.save(tmp_path / "p.safetensors")
    assert read_predictions(tmp_path / "p.safetensors").acceptable.tolist() == wanted
    for bad, says in (
        ("id,labels\nx,a\ny,b\n", "no label for z"),
        ("id,labels\nx,a\ny,\nz,a\n", "no label for y"),
        ("id,labels\nx,a\ny,d\nz,a\n", "line 3: the label 'd' is no class"),
        ("id,label\nx,a\n", "no column 'labels'"),
    ):
        with pytest.raises(LevelheadError, match=says):
            read_acceptable(written(tmp_path, "bad.csv", bad), outputs)


def test_superclasses_of_a_table(tmp_path):
    """A cat taken for a dog would count as no animal, or the kinds be lost with the file."""
    names = ("cat", "dog", "truck")
    table = written(tmp_path, "k.csv", "superclass,class\nanimal,dog\nvehicle,truck\nanimal,cat\n")
    kinds = read_superclasses(table, names)
    assert kinds == ("animal", "animal", "vehicle")
    outputs = Outputs.from_logits(
        [[2.0, 0, 1], [0, 1, 0], [0, 0, 3]], [1, 2, 2], names, superclasses=kinds
    )
    metric = METRICS["superclass_accuracy"]
    assert metric.value(metric.prepare(outputs)) == {"superclass_accuracy": pytest.approx(2 / 3)}
    outputs.save(tmp_path / "p.safetensors")
    assert read_predictions(tmp_path / "p.safetensors").superclasses == kinds
    for bad, says in (
        ("class,superclass\ncat,a\ndog,b\n", "no superclass of 'truck'"),
        ("class,superclass\ncat,a\ncat,b\n", "names a class twice"),
        ("class,kind\ncat,a\n", "first line must be class,superclass"),
    ):
        with pytest.raises(LevelheadError, match=says):
            read_superclasses(written(tmp_path, "bad.csv", bad), names)
    with pytest.raises(LevelheadError, match="superclasses: 2 for 3 classes"):
        Outputs.from_logits([[2.0, 0, 1]], [1], names, superclasses=("a", "b"))


def test_arrays_of_other_libraries_go_in_as_they_are():
    """scikit-learn's string labels, JAX's or Keras's arrays would need conversion code."""
    from sklearn.linear_model import LogisticRegression

    class Array:  # what both libraries offer to NumPy
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    x = np.array([[0.0], [1], [2], [3]])
    y = np.array(["no", "no", "yes", "yes"])
    model = LogisticRegression().fit(x, y)
    outputs = Outputs.from_probabilities(model.predict_proba(x), y, model.classes_)
    assert outputs.class_names == ("no", "yes")
    assert outputs.rows.correct.mean() == model.score(x, y) == 1
    other = Outputs.from_probabilities(Array(model.predict_proba(x)), Array([0, 0, 1, 1]))
    assert torch.equal(other.scores, outputs.scores)
    with pytest.raises(LevelheadError, match="row 1: the label 'maybe' is no class"):
        Outputs.from_probabilities(model.predict_proba(x), ["no", "maybe"] * 2, model.classes_)


def test_labels_may_be_missing_where_nobody_asks(tmp_path):
    """Examples from elsewhere, which have no label, could not be told apart from others."""
    path = written(tmp_path, "p.csv", "a,b\n0.9,0.1\n0.5,0.5\n")
    assert len(read_predictions(path, "probabilities", labelled=False)) == 2
    with pytest.raises(LevelheadError, match="no column 'label'"):
        read_predictions(path, "probabilities")
    np.savez(tmp_path / "p.npz", logits=np.eye(3))
    assert len(read_predictions(tmp_path / "p.npz", labelled=False)) == 3


def test_a_group_column_that_is_not_there_is_named(tmp_path):
    """All examples would fall into one group, silently."""
    with pytest.raises(LevelheadError, match="no column 'site' among"):
        read_predictions(written(tmp_path, "p.csv", LOG), "confidence", group_column="site")


def test_large_arrays_are_mapped_not_read(tmp_path):
    """Predictions larger than memory could not be judged; or the map would start a byte off."""
    z = np.random.default_rng(0).normal(size=(300_000, 64)).astype(np.float32)
    y = z.argmax(1)
    np.savez(tmp_path / "p.npz", logits=z, labels=y)
    np.savez_compressed(tmp_path / "c.npz", logits=z[:100], labels=y[:100])
    Outputs.from_logits(z, y).save(tmp_path / "p.safetensors")
    for name in ("p.npz", "p.safetensors"):
        outputs = read_predictions(tmp_path / name)
        assert torch.equal(outputs.scores, torch.from_numpy(z))
        assert outputs.rows.correct.mean() == 1
    maps = Path("/proc/self/maps")
    outputs = read_predictions(tmp_path / "p.npz")
    if maps.exists():
        assert str(tmp_path / "p.npz") in maps.read_text()
    assert zipfile.is_zipfile(tmp_path / "p.npz")
    assert len(outputs) == 300_000
    assert torch.equal(read_predictions(tmp_path / "c.npz").scores, torch.from_numpy(z[:100]))


def test_tables_of_many_pieces_read_like_one(tmp_path):
    """Rows at the border of two pieces would be lost, or labels stand beside other scores."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    z = np.random.default_rng(0).normal(size=(150_000, 4)).round(4)
    table = pa.table({f"c{k}": z[:, k] for k in range(4)} | {"label": z.argmax(1)})
    csv.write_csv(table, tmp_path / "p.csv")
    parquet.write_table(table, tmp_path / "p.parquet", row_group_size=1000)
    assert (tmp_path / "p.csv").stat().st_size > 1 << 22  # more than a piece
    for name in ("p.csv", "p.parquet"):
        outputs = read_predictions(tmp_path / name, "logits")
        assert torch.equal(outputs.scores, torch.from_numpy(z.astype(np.float32)))
        assert outputs.rows.correct.mean() == 1


TOKENS = "confidence,correct,log_probability\n0.9,1,-0.105\n0.6,0,-2.3\n0.8,true,-0.22\n"


def test_tokens_of_a_language_model(tmp_path):
    """Confidence, right or wrong, log-probability of the label: from anyone's model."""
    path = tmp_path / "tokens.csv"
    path.write_text(TOKENS)
    outputs = read_predictions(path, "confidence")
    assert outputs.anonymous
    assert outputs.rows.correct.tolist() == [1, 0, 1]
    assert outputs.rows.nll.tolist() == pytest.approx([0.105, 2.3, 0.22])
    judgement = judge(outputs, resamples=50)["metrics"]
    assert judgement["nll"]["value"] == pytest.approx((0.105 + 2.3 + 0.22) / 3)
    for name in ("balanced_accuracy", "toplabel_ece", "binary_ece", "brier"):
        assert judgement[name]["value"] is None, name
        assert judgement[name]["reason"]
    outputs.save(tmp_path / "kept.safetensors")
    again = read_predictions(tmp_path / "kept.safetensors")
    assert again.anonymous
    assert torch.equal(again.label_log_probability, outputs.label_log_probability)
    assert len(again.take([0, 2]).label_log_probability) == 2


def test_log_probability_beside_label_and_prediction(tmp_path):
    """With classes known, NLL joins what confidences say already."""
    path = tmp_path / "known.csv"
    path.write_text("label,prediction,confidence,log_probability\na,a,0.9,-0.1\nb,a,0.6,-1.5\n")
    outputs = read_predictions(path, "confidence")
    assert not outputs.anonymous
    assert outputs.class_names == ("a", "b")
    assert outputs.rows.nll.tolist() == [0.1, 1.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("confidence,correct\n0.9,perhaps\n", "line 2: correct 'perhaps'; write 1 or 0"),
        ("confidence,correct,log_probability\n0.9,1,0.5\n", "log_probability 0.5: must be 0 or"),
        ("confidence,correct,log_probability\n0.9,1,x\n", "the log_probability 'x' is no number"),
        ("correct,log_probability\n1,-1\n", "confidence"),
    ],
)
def test_tokens_that_cannot_be(text, words, tmp_path):
    path = tmp_path / "tokens.csv"
    path.write_text(text)
    with pytest.raises(LevelheadError, match=words):
        read_predictions(path, "confidence")


def test_a_log_probability_belongs_to_confidences():
    with pytest.raises(LevelheadError, match="belongs to Outputs of kind 'confidence'"):
        Outputs.from_logits([[1.0, 0.0]], [0], label_log_probability=[-0.1])

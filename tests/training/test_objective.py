"""Five ways to make targets, from the flag to the loss: prior, ε by class, people, mixing, classes.

What reaches the loss is recorded in whole trainings on the digits and held against the formula.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from levelhead import data
from levelhead.cli import run as command
from levelhead.data import augment
from levelhead.data.annotations import read_epsilons, read_labels, read_prior
from levelhead.data.batches import seeded
from levelhead.errors import LevelheadError
from levelhead.losses import LOSSES, cross_entropy
from levelhead.recipe import Recipe
from levelhead.targets import of_batch
from levelhead.training.events import Epoch
from levelhead.training.objective import Objective
from levelhead.training.prepare import prepare, relabelled
from levelhead.training.run import resume, train
from levelhead.training.run_data import train_outputs

QUICK = Recipe("digits", model="linear", epochs=1)
NAMES = ("cat", "dog", "owl")
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def digits():
    """The digits, prepared once."""
    return prepare(QUICK)[1]


@pytest.fixture
def unjudged(monkeypatch):
    """Judging takes longer than training, and is no matter of targets."""
    monkeypatch.setattr("levelhead.training.run.run_findings", lambda *given, **more: {})


@pytest.fixture
def seen(monkeypatch, unjudged):
    """Of every step: the plain batch, the images the network saw, and what the loss was told."""
    steps: list[SimpleNamespace] = []

    original = Objective.batch

    def batch(self, batch, step):
        steps.append(SimpleNamespace(batch=batch))
        made = original(self, batch, step)
        steps[-1].images = made.images
        return made

    def loss(scores, targets, options):
        steps[-1].targets, steps[-1].smoothing = targets, options.smoothing
        steps[-1].logits = scores.detach().clone()
        return cross_entropy.function(scores, targets, options)

    monkeypatch.setattr(Objective, "batch", batch)
    watched = dataclasses.replace(cross_entropy, function=loss)
    monkeypatch.setitem(LOSSES, "cross_entropy", watched)
    return steps


def check_steps(steps, literal):
    """Each step's soft target is literal(row in the split, label, class); ε is left at 0."""
    assert len(steps) > 3
    for step in steps:
        assert step.smoothing == 0
        rows = zip(step.batch.index.tolist(), step.batch.labels.tolist(), strict=True)
        wanted = np.array([[literal(i, y, k) for k in range(10)] for i, y in rows])
        np.testing.assert_allclose(step.targets.soft.numpy(), wanted, rtol=0, atol=3e-7)


# --- prior and ε by class ------------------------------------------------------------------------


def test_frequency_is_the_share_of_the_labels_trained_on(seen, tmp_path):
    """ε would go elsewhere than to the classes' shares, or to those of the labels before noise."""
    noisy = QUICK.replace(noise="asymmetric", noise_rate=0.4, smoothing=0.3)
    made = train(noisy.replace(prior="frequency"), tmp_path / "run")
    labels = relabelled(*prepare(made.recipe)).train.labels
    share = [float((labels == k).mean()) for k in range(10)]
    check_steps(seen, lambda _, y, k: 0.7 * (k == y) + 0.3 * share[k])


@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_prior_and_epsilon_by_class_compose(convention, seen, tmp_path):
    """A class would be smoothed with another's ε, or towards another's neighbours."""
    similar = np.random.default_rng(0).random((10, 10)) + 0.1
    order = list(reversed(DIGITS))  # the file's order is not the data's
    rows = [[a, *(str(similar[int(a), int(b)]) for b in order)] for a in order]
    (tmp_path / "s.csv").write_text("\n".join(map(",".join, [["", *order], *rows])))
    (tmp_path / "e.csv").write_text("class,epsilon\n3,0.35\n0,0\n")
    recipe = QUICK.replace(smoothing=0.1, convention=convention, prior=str(tmp_path / "s.csv"))
    train(recipe.replace(smoothing_by_class=str(tmp_path / "e.csv")), tmp_path / "r")
    epsilon = {3: 0.35, 0: 0.0}

    def literal(_, y, k):
        e, others = epsilon.get(y, 0.1), convention == "others"
        total = sum(similar[y, j] for j in range(10) if not (others and j == y))
        return (1 - e) * (k == y) + e * (0 if others and k == y else similar[y, k] / total)

    check_steps(seen, literal)


def test_epsilon_by_class_alone_is_smoothing(seen, tmp_path):
    """Without a prior ε would not be spread evenly."""
    (tmp_path / "e.csv").write_text("epsilon;class\n0.4;7\n")
    recipe = QUICK.replace(smoothing_by_class=str(tmp_path / "e.csv"), convention="others")
    train(recipe, tmp_path / "run")
    wanted = {True: 0.6, False: 0.4 / 9}
    check_steps(seen, lambda _, y, k: wanted[k == y] if y == 7 else float(k == y))


def test_priors_are_read_in_any_order(tmp_path):
    """Rows or columns would be taken for those of other classes."""

    def read(text):
        (tmp_path / "p.csv").write_text(text)
        return read_prior(tmp_path / "p.csv", NAMES).tolist()

    assert read("0.2,0.3,0.5\n") == [0.2, 0.3, 0.5]
    assert read("owl,cat,dog\n0.5,0.2,0.3\n") == [0.2, 0.3, 0.5]
    assert read("what,owl,cat,dog\nshare,0.5,0.2,0.3\n") == [0.2, 0.3, 0.5]
    square = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert read("1,2,3\n4,5,6\n7,8,9\n") == square
    assert read(";owl;cat;dog\ndog;6;4;5\ncat;3;1;2\n\nowl;9;7;8\n") == square
    assert read("owl,cat,dog\n9,7,8\n3,1,2\n6,4,5\n") == square  # one side speaks for both
    assert read("owl,9,7,8\ncat,3,1,2\ndog,6,4,5\n") == square
    for text, words in (
        ("owl,cat,dgo\n1,2,3\n", "did you mean 'dog'"),
        ("owl,cat,cat\n1,2,3\n", "a class twice"),
        ("1,2\n3,4\n", "1 rows of 2 columns for 3 classes"),
        ("1,2,3\n4,5\n", "line 2 has 2 cells, not 3"),
        ("cat,dog,owl\n1,x,3\n", "'x' is no number"),
        ("", "is empty"),
    ):
        with pytest.raises(LevelheadError, match=words):
            read(text)
    with pytest.raises(LevelheadError, match=r"none\.csv: cannot be read"):
        read_prior(tmp_path / "none.csv", NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat,0.1\n", "must be class,epsilon"),
        ("class,epsilon\ncta,0.1\n", "did you mean 'cat'"),
        ("class,epsilon\ncat,0.1\ncat,0.2\n", "occurs twice"),
        ("class,epsilon\ncat,1\n", "epsilon 1.0 of 'cat'"),
        ("class,epsilon\ncat,nan\n", "epsilon nan of 'cat'"),
        ("class,epsilon\ncat,much\n", "'much' is no number"),
    ],
)
def test_epsilons_that_are_none_are_refused(text, words, tmp_path):
    """A slip in the file would smooth nothing, or too much."""
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(LevelheadError, match=words):
        read_epsilons(tmp_path / "e.csv", NAMES, 0.1)


# --- labels by annotators ------------------------------------------------------------------------


def test_votes_reach_the_loss_by_picture(seen, digits, tmp_path):
    """An image would be trained towards what annotators said of another one."""
    votes = np.random.default_rng(1).integers(0, 9, (1797, 10))
    np.save(tmp_path / "votes.npy", votes)
    recipe = QUICK.replace(labels=str(tmp_path / "votes.npy"))
    made = train(recipe, tmp_path / "run", data=digits)
    rows = [int(name.split("/")[1]) for name in digits.train.ids]

    def literal(i, _, k):
        return votes[rows[i], k] / votes[rows[i]].sum()

    check_steps(seen, literal)
    data = relabelled(recipe, digits)
    assert (data.train.labels == votes[rows].argmax(1)).all()
    assert (data.test.labels == digits.test.labels).all()
    both = np.concatenate([digits.train.ids, digits.validation.ids])
    own = np.concatenate([digits.train.labels, digits.validation.labels])
    share = (votes[[int(name.split("/")[1]) for name in both]].argmax(1) != own).mean()
    assert any(f"{100 * share:.3g} % of those of train" in n for n in made.data["notes"])

    seen.clear()
    smoothed = train(recipe.replace(smoothing=0.2), tmp_path / "s", data=digits)
    check_steps(seen, lambda i, y, k: 0.8 * literal(i, y, k) + 0.02)
    assert any("smoothed again" in note for note in smoothed.data["notes"])


def test_a_run_keeps_what_people_said_of_validation(digits, tmp_path):
    """Predictions could not be held against people, whose votes taught them."""
    votes = (
        np.random.default_rng(3).integers(0, 4, (1797, 10))
        + 9 * np.eye(10, dtype=int)[np.arange(1797) % 10]
    )
    np.save(tmp_path / "votes.npy", votes)
    told = QUICK.replace(labels=str(tmp_path / "votes.npy"))
    run = train(told, tmp_path / "run", data=digits)
    held, test = run.outputs("validation"), run.outputs("test")
    rows = votes[[int(name.split("/")[1]) for name in held.ids]]
    wanted = torch.from_numpy(rows / rows.sum(1, keepdims=True))
    torch.testing.assert_close(held.label_distribution, wanted, check_dtype=False)
    assert test.label_distribution is None
    assert "soft_nll" in run.findings["validation"]["metrics"]


def test_labels_are_read_from_every_kind_of_table(digits, tmp_path):
    """A table would be matched by its order where it has ids, or its words taken for positions."""
    said = (np.arange(1797) * 7) % 10
    ids, shuffled = digits.listing.splits["train"].ids, np.random.default_rng(2).permutation(1797)
    lines = [f"{ids[i]},{said[i]},x" for i in shuffled]
    (tmp_path / "a.csv").write_text("\n".join(["id,worst,other", *lines]))
    table = pa.table({"id": [ids[i] for i in shuffled], "worst": said[shuffled]})
    pq.write_table(table, tmp_path / "b.parquet")
    np.save(tmp_path / "c.npy", said)
    (tmp_path / "d.csv").write_text("\n".join(map(str, said)))
    votes = np.eye(10, dtype=int)[said] * 3
    rows = [",".join([ids[i], *map(str, votes[i, ::-1])]) for i in shuffled]
    (tmp_path / "e.csv").write_text("\n".join(["id," + ",".join(DIGITS[::-1]), *rows]))
    for told, soft in (
        ("a.csv:worst", False),
        ("b.parquet", False),
        ("c.npy", False),
        ("d.csv", False),
        ("e.csv", True),
    ):
        recipe, data = prepare(QUICK.replace(labels=str(tmp_path / told)), known=digits)
        data = relabelled(recipe, data)
        for part in (data.train, data.validation):
            wanted = said[[int(name.split("/")[1]) for name in part.ids]]
            assert part.labels.tolist() == wanted.tolist(), told
        assert (data.train.votes is not None) == (data.validation.votes is not None) == soft
    (tmp_path / "n.csv").write_text("label\ncat\nowl\n")
    assert read_labels(str(tmp_path / "n.csv"), ("a", "b"), NAMES)[1].tolist() == [0, 2]
    (tmp_path / "n.csv").write_text("label\n1\n2\n")  # names win over positions, all or none
    assert read_labels(str(tmp_path / "n.csv"), ("a", "b"), ("1", "2"))[1].tolist() == [0, 1]
    (tmp_path / "n.csv").write_text("label\n1\n0\n")
    assert read_labels(str(tmp_path / "n.csv"), ("a", "b"), ("1", "2"))[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label\ncat\n", "1 rows for the 2 images of the original training set"),
        ("label\ncat\ndgo\n", "row 1: the label 'dgo' is no class; did you mean 'dog'"),
        ("label\n0\n3\n", "row 1: the label '3' is no class"),
        ("id,label\na,cat\na,dog\n", "id 'a' occurs twice"),
        ("first,second\ncat,dog\ndog,cat\n", "give PATH:COLUMN"),
        ("cat,dog,owl\n1,0,0\n0,0,0\n", "row 1"),
        ("cat,dog,owl\n1,0,0\n0,x,0\n", "'x'"),
        ("1,2\n3,4\n", "give a header"),
    ],
)
def test_labels_that_are_none_are_refused(text, words, tmp_path):
    """A slip in the file would become labels that nobody gave."""
    (tmp_path / "n.csv").write_text(text)
    with pytest.raises(LevelheadError, match=words):
        read_labels(str(tmp_path / "n.csv"), ("a", "b"), NAMES)


def test_labels_that_do_not_fit_the_run_are_refused(digits, tmp_path):
    """Images would keep the data's labels, a class vanish, or soft targets go unused."""

    def refused(name, words, **changes):
        recipe = QUICK.replace(labels=str(tmp_path / name), **changes)
        with pytest.raises(LevelheadError, match=words):
            train(recipe, tmp_path / "run", data=digits)
        assert not (tmp_path / "run").exists()

    lost = digits.validation.ids[0]
    some = [f"{name},1" for name in digits.listing.splits["train"].ids if name != lost]
    (tmp_path / "some.csv").write_text("\n".join(["id,label", *some]))
    refused("some.csv", f"none for 1 of .* images of validation, first '{lost}'")
    np.save(tmp_path / "one.npy", np.zeros(1797, int))
    refused("one.npy", "no training image is '1'")
    np.save(tmp_path / "wide.npy", np.ones((1797, 3)))
    refused("wide.npy", r"\[N,10\] counts")
    refused("none.npy", "cannot be read")
    refused("none.txt", "give .csv, .parquet, or .npy")
    np.save(tmp_path / "votes.npy", np.eye(10)[np.arange(1797) % 10])
    refused("votes.npy", "not soft targets", loss="label_relaxation")
    refused("votes.npy", "--targets online does not take", targets="online")


def test_images_without_a_label(digits, tmp_path):
    """They would be taken for a class, or be lost where a teacher knows them."""
    ids = digits.listing.splits["train"].ids
    truth = dict(zip(ids, digits.listing.splits["train"].labels.tolist(), strict=True))
    none = ("", -1, -100)
    words = [f"{n},{truth[n] if i % 3 else none[i % 9 // 3]}" for i, n in enumerate(ids)]
    (tmp_path / "some.csv").write_text("\n".join(["id,label", *words]))
    recipe = QUICK.replace(labels=str(tmp_path / "some.csv"), model="linear")
    alone = train(recipe, tmp_path / "alone", data=digits)
    kept, whole = alone.data["counts"], QUICK
    assert kept["train"] == sum(
        bool(i % 3) for i, n in enumerate(ids) if n in set(digits.train.ids)
    )
    assert any("have no label there: left out" in note for note in alone.data["notes"])
    teacher = train(whole, tmp_path / "teacher", data=digits)
    student = train(
        recipe.replace(teacher=str(teacher.folder), beta=0.5), tmp_path / "student", data=digits
    )
    assert student.data["counts"]["train"] == len(digits.train)
    assert any("they learn from the teacher alone" in note for note in student.data["notes"])
    assert 0.3 < student.history[-1]["train_accuracy"] <= 1
    with pytest.raises(LevelheadError, match="--mix mixup: needs a label of every training image"):
        train(recipe.replace(teacher=str(teacher.folder), mix="mixup"), tmp_path / "m", data=digits)
    outputs = train_outputs(student)
    assert len(outputs) == kept["train"]


def test_cifar_labels_by_people(real_data):
    """Rows would be matched to other images: as published, 40.21 % of `worst` differ."""
    listing = data.scan(str(real_data("cifar10")))
    train_, test = listing.splits["train"], listing.splits["test"]
    path = real_data("cifar10n") / "labels.parquet"
    for column, share in (("clean", 0), ("aggregate", 9.01), ("worst", 40.21)):
        place, said = read_labels(f"{path}:{column}", train_.ids, listing.class_names)
        rows = [place[name] for name in train_.ids]
        differ = (said[rows].numpy() != train_.labels).mean() * 100
        assert differ == pytest.approx(share, abs=0.05)
    counts = real_data("cifar10h") / "cifar10h-counts.npy"
    _, soft = read_labels(str(counts), test.ids, listing.class_names)
    assert (soft.argmax(1).numpy() == test.labels).mean() > 0.99
    entropy = -torch.special.xlogy(soft, soft).sum(1).mean()
    assert float(entropy) == pytest.approx(0.154, abs=0.001)  # Peterson et al. 2019
    with pytest.raises(LevelheadError, match="10,000 rows for the 50,000 images"):
        read_labels(str(counts), train_.ids, listing.class_names)


# --- mixing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_pictures_are_the_literal_formula(kind):
    """The image's share would not be the target's, or a partner stand at another place."""
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.integers(0, 256, (4, 2, 7, 9), dtype=np.uint8))
    before, partner = images.clone(), torch.tensor([2, 0, 3, 1])
    shares = []
    for seed in range(30):
        made, share = augment.mixed(images, partner, kind, 1.0, np.random.default_rng(seed))
        shares.append(share)
        x, other = images.double().numpy(), images[partner].double().numpy()
        if kind == "mixup":
            assert share == np.random.default_rng(seed).beta(1.0, 1.0)
            wanted = share * x + (1 - share) * other
        else:
            inside = np.zeros((7, 9), bool)
            drawn = np.random.default_rng(seed)
            side = math.sqrt(1 - drawn.beta(1.0, 1.0))
            y, z = drawn.uniform(0, 7), drawn.uniform(0, 9)
            for r in range(7):
                for c in range(9):
                    rows = round(y - 3.5 * side) <= r < round(y + 3.5 * side)
                    inside[r, c] = rows and round(z - 4.5 * side) <= c < round(z + 4.5 * side)
            wanted = np.where(inside, other, x)
            assert share == pytest.approx(1 - inside.mean())
        np.testing.assert_allclose(made.double().numpy(), wanted, atol=1e-4)
    assert torch.equal(images, before)
    assert min(shares) < 0.3
    assert max(shares) > 0.7


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_reach_the_loss_smoothed_once(kind, seen, tmp_path):
    """A target would have another share than its image, be smoothed twice or not at all, or the
    history be held against the label of the smaller share."""
    recipe = QUICK.replace(mix=kind, mix_alpha=1.0, smoothing=0.2)
    made = train(recipe, tmp_path / "run")
    hits, nll = 0, 0.0
    for number, step in enumerate(seen):
        rng = np.random.default_rng(seeded(0, number, 2).initial_seed())
        labels = step.batch.labels.numpy()
        partner = rng.permutation(len(labels))
        images, share = augment.mixed(step.batch.images, torch.from_numpy(partner), kind, 1.0, rng)
        assert torch.equal(step.images, images)
        assert step.smoothing == 0
        pairs = list(zip(labels.tolist(), labels[partner].tolist(), strict=True))
        mixed = [
            [0.8 * (share * (k == a) + (1 - share) * (k == b)) + 0.02 for k in range(10)]
            for a, b in pairs
        ]
        np.testing.assert_allclose(step.targets.soft.numpy(), mixed, rtol=0, atol=3e-7)
        larger = labels if share >= 0.5 else labels[partner]
        assert step.targets.labels.tolist() == larger.tolist()
        x = step.logits.double().numpy()
        log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
        hits += (x.argmax(1) == larger).sum()
        nll -= log_p[np.arange(len(larger)), larger].sum()
    n = made.data["counts"]["train"]
    assert made.history[0]["train_accuracy"] == pytest.approx(hits / n)
    assert made.history[0]["train_nll"] == pytest.approx(nll / n, rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_resumes_bit_for_bit(kind, unjudged, tmp_path):
    """A resumed run would mix other images than one that was never stopped."""
    recipe = QUICK.replace(mix=kind, epochs=3)
    whole = train(recipe, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(event):
        if isinstance(event, Epoch) and event.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(recipe, tmp_path / "part", watch=stop)
    part = resume(tmp_path / "part")
    assert torch.equal(whole.network().head.weight, part.network().head.weight)
    keys = ("train_loss", "train_nll", "train_accuracy", "validation_nll")
    assert [[row[k] for k in keys] for row in whole.history] == [
        [row[k] for k in keys] for row in part.history
    ]
    other = train(recipe.replace(mix="none"), tmp_path / "plain")
    assert not torch.equal(whole.network().head.weight, other.network().head.weight)


def test_a_teacher_sees_the_mixed_pictures(seen, tmp_path, monkeypatch):
    """A student would learn, of a mixture, what the teacher thinks of one image."""
    teacher = train(QUICK, tmp_path / "teacher")
    seen.clear()
    shown = []
    from levelhead.training.distillation import Teacher

    def logits(self, batch):
        shown.append(batch.images)
        return original(self, batch)

    original = Teacher.logits
    monkeypatch.setattr(Teacher, "logits", logits)
    recipe = QUICK.replace(teacher=str(teacher.folder), mix="mixup", beta=0.5)
    train(recipe, tmp_path / "student")
    assert len(shown) == len(seen) > 3
    assert all(torch.equal(a, step.images) for a, step in zip(shown, seen, strict=True))


def test_targets_of_a_batch():
    """Rows and people's shares would be combined by the wrong index."""
    rows = torch.rand(3, 3)
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    labels, index = torch.tensor([2, 0]), torch.tensor([1, 0])
    assert of_batch(labels, index).soft is None
    assert torch.equal(of_batch(labels, index, rows).soft, rows[[2, 0]])
    assert torch.equal(of_batch(labels, index, None, soft).soft, soft[[1, 0]])
    made = of_batch(labels, index, rows, soft).soft
    torch.testing.assert_close(made, torch.stack([rows[2], (rows[0] + rows[1]) / 2]))


# --- classes -------------------------------------------------------------------------------------


def test_a_subset_of_classes_keeps_the_splits(digits, tmp_path):
    """An image tested on with all classes would be trained on with some; or a label be off."""
    few = QUICK.replace(classes=("7", "1", "4"))
    _, some = prepare(few, known=digits)
    assert some is not digits
    assert some.class_names == ("1", "4", "7")
    for name in ("train", "validation", "test"):
        whole, part = digits.splits[name], some.splits[name]
        kept = [i for i, y in enumerate(whole.labels) if y in (1, 4, 7)]
        assert list(part.ids) == [whole.ids[i] for i in kept]
        assert [(1, 4, 7)[y] for y in part.labels] == whole.labels[kept].tolist()
        assert (part.images == whole.images[kept]).all()
        assert part.hash() == some.hashes[name] != digits.hashes[name]
    assert prepare(few.replace(smoothing=0.1), known=some)[1] is some
    assert prepare(few.replace(classes=("4", "7", "1")), known=some)[1] is some
    assert prepare(few.replace(classes=("4", "7")), known=some)[1] is not some
    made = train(few.replace(epochs=3), tmp_path / "run", data=some)
    assert made.data["class_names"] == ["1", "4", "7"]
    assert made.recipe.classes == few.classes
    assert any("Only 1, 4, 7" in note for note in made.data["notes"])
    assert made.findings["test"]["metrics"]["accuracy"]["value"] > 0.9


# --- what does not go together, through the command ----------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--prior frequency", "--prior frequency: nothing goes there; give --smoothing 0.1"),
        ("--prior none.csv --smoothing 0.1", "none.csv: cannot be read"),
        ("--prior frequency --targets online", "learns its own"),
        ("--prior two.csv --smoothing 0.1", "for 10 classes"),
        ("--prior bad.csv --smoothing 0.1", "adds up to 10"),
        ("--smoothing-by-class none.csv", "none.csv: cannot be read"),
        ("--smoothing-by-class e.csv --loss mbls", "takes the place of smoothing"),
        ("--smoothing-by-class e.csv --convention others", "(K-1)/K"),
        ("--labels none.csv --noise symmetric", "--noise is for the data's own"),
        ("--labels none.csv --classes 1 2", "--classes leaves out"),
        ("--labels none.csv", "none.csv: cannot be read"),
        ("--mix blend", "invalid choice: 'blend'"),
        ("--mix-alpha 0.3", "nothing is mixed"),
        ("--mix mixup --mix-alpha 0", "--mix-alpha 0.0: must be above 0"),
        ("--mix mixup --targets online", "--mix mixup: --targets online"),
        ("--mix cutmix --loss label_relaxation", "--loss label_relaxation wants one label"),
        ("--mix cutmix --model lite0 --no-finetune", "--mix cutmix: needs a network trained"),
        ("--mix mixup --teacher two.csv", "--teacher is a file"),
        ("--policy autoaugment", "invalid choice: 'autoaugment'"),
        ("--fill mirror --shift 0.1", "invalid choice: 'mirror'"),
        ("--fill nearest", "--fill nearest: nothing is moved; give --shift 0.1"),
        ("--shift 2", "--shift 2.0: must be from 0 to 1"),
        ("--scale 0", "--scale 0.0: must be from 0 to 1"),
        ("--rotation -3", "--rotation -3.0: must be from 0 to 180"),
        ("--pixel-noise nan", "--pixel-noise nan: must be from 0 to 1"),
        ("--colour 0.3", "--colour 0.3: these images are grey; leave it out"),
        ("--augment-by-class none.csv", "none.csv: cannot be read"),
        ("--augment-by-class e.csv", "e.csv: column 'epsilon'"),
        ("--augment-by-class grey.csv", "grey.csv: colour of these images: they are grey"),
        ("--augment-by-class far.csv", "rotation 270 of '3': must be 0 to 180"),
        ("--rotation 9 --model lite0 --no-finetune", "--rotation 9.0: the frozen body of lite0"),
        ("--crop 4 --model lite0 --no-finetune", "--crop 4: the frozen body of lite0"),
        ("--sampler balanced --model lite0 --no-finetune", "take --class-weights balanced"),
        ("--prior-correction", "--prior-correction: classes are not balanced"),
        ("--tta-draws 4", "--tta-draws 4: is for --tta draws"),
        ("--tta-average probabilities", "there is one view; give --tta flip"),
        ("--tta draws", "--tta draws: training draws nothing"),
        ("--tta draws --policy randaugment", "draws of --policy randaugment are not fixed"),
        ("--tta draws --tta-draws 0 --crop 2", "--tta-draws 0: must be 1 to 100"),
        ("--classes 1", "--classes ('1',): must be two names or more"),
        ("--classes 1 1", "must be two names or more"),
        ("--classes 1 11", "--classes 11: not in the data; did you mean '1'"),
    ],
)
def test_contradictions_are_one_line_and_leave_with_2(words, wanted, tmp_path, monkeypatch, capsys):
    """A slip would end in a traceback, in a folder half made, or in a training nobody asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.csv").write_text("0.5,0.5\n")
    (tmp_path / "bad.csv").write_text(",".join("1" * 10))
    (tmp_path / "e.csv").write_text("class,epsilon\n3,0.95\n")
    (tmp_path / "grey.csv").write_text("class,colour\n3,0.5\n")
    (tmp_path / "far.csv").write_text("class,rotation\n3,270\n")
    assert command(["train", "digits", "--model", "linear", *words.split()]) == 2
    said = capsys.readouterr()
    assert wanted in said.err
    assert said.err.count("\n") == 1, said.err
    assert not (tmp_path / "runs").exists()


def test_the_command_takes_them_all(unjudged, tmp_path, monkeypatch, capsys):
    """A flag would be lost between the command line and recipe.toml, or not be found again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("\n".join([",".join(DIGITS), ",".join(["0.1"] * 10)]))
    (tmp_path / "e.csv").write_text("class,epsilon\n3,0.2\n")
    np.save(tmp_path / "l.npy", np.eye(10)[np.arange(1797) % 10])
    monkeypatch.setattr("levelhead.report.write_report", lambda folder: None)
    monkeypatch.setattr("levelhead.report.card.write_card", lambda run: None)
    words = "train digits --model linear --epochs 1 --out run --prior p.csv --labels l.npy "
    words += "--smoothing-by-class e.csv --smoothing 0.1 --mix cutmix --json"
    assert command(words.split()) == 0
    recipe = Recipe.load("run/recipe.toml")
    assert (recipe.mix, recipe.mix_alpha) == ("cutmix", 1.0)
    for name, file in (("prior", "p.csv"), ("labels", "l.npy"), ("smoothing_by_class", "e.csv")):
        assert getattr(recipe, name) == str(tmp_path / file)
    assert "smoothed again" in capsys.readouterr().err

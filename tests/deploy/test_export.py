"""An exported run answers as the run does, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from levelhead import Recipe, train
from levelhead.cli import run as command
from levelhead.data.decode import fit, resize_matrix
from levelhead.deploy.module import fitted
from levelhead.deploy.predict import predict, predict_to_csv
from levelhead.deploy.quantise import export_int8
from levelhead.errors import LevelheadError
from levelhead.runs import finished_run


@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 7, 16, 32]),
    st.sampled_from([1, 3]), st.sampled_from(["crop", "squash"]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_resizing_has_the_same_bits_in_torch(
    height: int, width: int, size: int, channels: int, resize: str, seed: int
) -> None:
    """One level of one pixel can change a probability by 5e-4: exports would not agree."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = fit(image, size, channels, resize).astype(np.float32)
    theirs = fitted(torch.from_numpy(image)[None], size, channels, resize)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(("length", "size"), [(40, 8), (41, 8), (8, 8), (8, 41), (1, 5), (999, 7)])
def test_resizing_is_opencvs(length: int, size: int) -> None:
    """Shrinking would alias, enlarging would not be cubic: both within what rounding allows."""
    import cv2

    matrix = resize_matrix(length, size)
    assert (matrix.sum(1) == 1).all(), "a plain image would change its brightness"
    image = np.random.default_rng(0).integers(0, 256, (length, length, 3), dtype=np.uint8)
    how = cv2.INTER_AREA if length >= size else cv2.INTER_CUBIC
    wanted = cv2.resize(image.astype(np.float32), (size, size), interpolation=how)
    apart = np.abs(fit(image, size, 3, "squash").astype(np.float32) - wanted.clip(0, 255))
    assert apart.max() <= 1.0  # half a level by rounding, the rest by entries of 1/8192


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small photos of two classes, in colour, of odd sizes."""
    root = tmp_path_factory.mktemp("export")
    for number, name in enumerate(("dark", "light")):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(60):
            draw = np.random.default_rng([number, i])
            shape = (int(draw.integers(12, 40)), int(draw.integers(12, 40)), 3)
            pixels = draw.normal(90 + 60 * number, 50, shape).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    recipe = Recipe(
        str(root / "photos"), model="cnn", epochs=3, image_size=16, validation=0.4, tta="flip",
        precision="float32", device="cpu",
    )  # fmt: skip
    return train(recipe, root / "run").folder


def odd_images(folder: Path) -> Path:
    """Photos as they come: tiny, long, grey, palette, transparent, 16 bit, turned by EXIF."""
    folder.mkdir()
    draw = np.random.default_rng(5)

    def image(*shape: int) -> Image.Image:
        return Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))

    image(1, 1, 3).save(folder / "one.png")
    image(2, 90, 3).save(folder / "long.png")
    image(30, 20).save(folder / "grey.png")
    image(30, 20, 4).save(folder / "clear.png")
    image(30, 20, 3).quantize(9).save(folder / "palette.png")
    deep = draw.integers(0, 1 << 16, (20, 31), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image(40, 24, 3).save(folder / "turned.jpg", exif=exif, quality=95)
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_exports_answer_as_the_run(
    trained: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The promise would end at the door: other probabilities, sets or decisions elsewhere."""
    if name.endswith("onnx"):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    assert command(["export", str(trained), str(tmp_path / name)]) == 0
    odd = odd_images(tmp_path / "odd")
    images = [str(odd), str(trained.parent / "photos" / "dark")]
    capsys.readouterr()
    assert command(["verify", str(tmp_path / name), str(trained), *images]) == 0
    assert "67 images: probabilities differ by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("crops", {"tta_average": "probabilities"}),
        ("draws", {"tta_draws": 3, "rotation": 20.0, "brightness": 0.3, "fill": "constant"}),
    ],
)
def test_exports_look_through_the_runs_views(
    trained: Path,
    tmp_path: Path,
    kind: str,
    more: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Views that an export leaves out, or averages otherwise, are other probabilities there."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    recipe = replace(finished_run(trained).recipe, tta=kind, epochs=1, **more)
    run = train(recipe, tmp_path / "run").folder
    images = [str(odd_images(tmp_path / "odd"))]
    for name in ("model.onnx", "model.pt2"):
        assert command(["export", str(run), str(tmp_path / name)]) == 0
        capsys.readouterr()
        assert command(["verify", str(tmp_path / name), str(run), *images]) == 0
        assert "probabilities differ by" in capsys.readouterr().out


def test_onnx_says_what_it_is(trained: Path, tmp_path: Path) -> None:
    """Who has the file alone would not know its classes and its promises; a stranger's is taken."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from levelhead.deploy.export import export
    from levelhead.deploy.exported import open_export

    path = tmp_path / "model.onnx"
    assert export(trained, path, batch=True).good
    answer = open_export(path)
    assert answer.metadata["class_names"] == ["dark", "light"]
    assert answer.metadata["policy"]["promises"]
    assert answer.metadata["card"] is None, "train alone writes no card"
    two = np.zeros((2, 9, 12, 3), np.uint8)
    assert [value.shape[0] for value in answer.run(two)] == [2] * 8
    stranger = onnx.load(path)
    del stranger.metadata_props[:]
    (tmp_path / "stranger.onnx").write_bytes(stranger.SerializeToString())
    (tmp_path / "damaged.onnx").write_bytes(path.read_bytes()[:3000])
    newer = onnx.load(path)
    newer.opset_import[0].version = 99
    (tmp_path / "newer.onnx").write_bytes(newer.SerializeToString())
    for more, words in (
        ({"device": "cuda"}, "runs on the CPU"),
        ({"calibration": "none"}, "its policy is built in"),
    ):
        with pytest.raises(LevelheadError, match=words):
            predict(path, tmp_path, **more)
    cases = {
        "stranger.onnx": "not a file that levelhead export wrote",
        "damaged.onnx": "damaged",
        "newer.onnx": "of a newer opset",
        "none.onnx": "no such file",
    }
    for name, words in cases.items():
        with pytest.raises(LevelheadError, match=words):
            open_export(tmp_path / name)
    with pytest.raises(LevelheadError, match=r"ends in \.onnx"):
        export(trained, tmp_path / "model.tflite")


def test_eight_bits(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Limits of other numbers would decide: the promise would be of a network that is not there."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from levelhead.deploy.decider import decider_of
    from levelhead.runs import Run

    path, plain = tmp_path / "int8.onnx", tmp_path / "plain.onnx"
    assert command(["export", str(trained), str(plain)]) == 0
    assert command(["export", str(trained), str(path), "--int8"]) == 0
    assert "The policy was set anew on outputs in 8 bits" in capsys.readouterr().out
    ours, theirs = Run(trained).policy, decider_of(path).policy
    # The wishes are the same, the limits are not; a risk that is promised is promised again.
    for one, other in zip(ours.thresholds, theirs.thresholds, strict=True):
        assert one.risk_wanted == other.risk_wanted
        assert (one.value is None) >= (other.value is None)
    assert theirs.sets is not None
    assert theirs.sets.alpha == (ours.sets.alpha if ours.sets is not None else None)
    import onnx

    def kinds(file: Path) -> set[str]:
        return {node.op_type for node in onnx.load(file).graph.node}

    assert "QuantizeLinear" in kinds(path) - kinds(plain)
    images = sorted((trained.parent / "photos").glob("*/*.png"))
    float_, int_ = predict(plain, images), predict(path, images)
    apart = (float_.probabilities - int_.probabilities).abs()
    assert 0 < float(apart.max()) < 0.3
    assert command(["verify", str(path), str(trained), str(images[0])]) == 0
    assert "in 8 bits" in capsys.readouterr().out
    with pytest.raises(LevelheadError, match=r"ends in \.onnx"):
        export_int8(trained, tmp_path / "model.pt2")


def test_a_stopped_csv_goes_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of 20,000 photos would be decided from the start again, or rows be lost or twice."""
    monkeypatch.setattr("levelhead.deploy.predict.AT_ONCE", 16)
    images, whole, part = str(trained.parent / "photos"), tmp_path / "a.csv", tmp_path / "b.csv"
    assert predict_to_csv(trained, images, whole).rows == 120

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_csv(trained, images, part, progress=stop)
    begun = tmp_path / "b.csv.part"
    assert not part.exists()
    begun.write_bytes(begun.read_bytes()[:-5])  # the power went while a row was written
    written = predict_to_csv(trained, images, part)
    assert 0 < written.earlier < 64
    assert sorted(part.read_text().splitlines()) == sorted(whole.read_text().splitlines())
    assert not begun.exists()
    begun.write_text("# levelhead predict other\npath\n")
    assert predict_to_csv(trained, images, part).earlier == 0, "went on with another model's rows"


def test_plain_predictions(trained: Path, tmp_path: Path) -> None:
    """`--calibration none` would still be calibrated, or obey a policy that was set otherwise."""
    image = trained.parent / "photos" / "dark" / "0.png"
    plain = predict(trained, image, calibration="none")
    assert plain.answers.kinds == ["class"]
    assert plain.to_json()["promises"]
    with pytest.raises(LevelheadError, match="calibration"):
        predict(trained, image, calibration=trained / "data.json")
    with pytest.raises(LevelheadError, match="between 0 and 1"):
        predict(trained, image, abstain_below=3)


def test_paths_from_standard_input(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`find … | levelhead predict RUN -` would not read its list."""
    import io

    image = trained.parent / "photos" / "light" / "3.png"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{image}\n\n"))
    assert command(["predict", str(trained), "-"]) == 0
    assert str(image) in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert command(["predict", str(trained), "-"]) == 2
    assert "holds no path" in capsys.readouterr().err


@pytest.mark.parametrize("language", ["Python", "JavaScript"])
def test_the_examples_decide_as_the_run(trained: Path, tmp_path: Path, language: str) -> None:
    """Who copies the thirty lines would get other decisions than `levelhead predict` gives."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    import os
    import subprocess
    import sys

    from levelhead.deploy.export import export

    examples = Path(__file__).parents[2] / "examples"
    command, folder = [sys.executable, "-W", "error", examples / "onnx_decisions.py"], tmp_path
    if language == "JavaScript":
        folder = Path(os.environ.get("LEVELHEAD_NODE", ""))
        if "LEVELHEAD_NODE" not in os.environ or not (folder / "node_modules").is_dir():
            pytest.skip("LEVELHEAD_NODE names no folder with onnxruntime-node and sharp")
        command = ["node", examples / "onnx_decisions.mjs"]
    export(trained, tmp_path / "model.onnx")
    images = sorted((trained.parent / "photos").glob("*/1*.png"))
    command += [tmp_path / "model.onnx", *images]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    predicted = predict(trained, images)
    lines = said.splitlines()
    assert len(lines) == len(images) == 22
    for line, decision, sure in zip(lines, predicted.decisions, predicted.confidence, strict=True):
        assert line.split("  ")[1:3] == [decision, f"{sure:.3f}"]

"""The served page and endpoint: the policy's answers, who gets them, and what is refused."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import tab
from levelhead import Recipe, train
from levelhead.cli import run as command
from levelhead.deploy.predict import predict
from levelhead.runs import Run
from levelhead.training.frozen import features_key

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small photos of two classes, whose body stood still."""
    root = tmp_path_factory.mktemp("serve")
    lines = ["path,label"]
    for number, name in enumerate(("dark", "<b>light</b>")):
        folder = root / "photos" / f"{number}"
        folder.mkdir(parents=True)
        for i in range(60):
            draw = np.random.default_rng([number, i])
            pixels = draw.normal(100 + 40 * number, 50, (24, 30, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}-{i}.png")
            lines.append(f"photos/{number}/{number}-{i}.png,{name}")
    table = root / "labels.csv"
    table.write_text("\n".join(lines))
    recipe = Recipe(str(table), model="lite0", image_size=32, validation=0.4, device="cpu")
    return train(recipe, root / "run").folder


@contextmanager
def served(*words: Any) -> Iterator[tuple[str, int, str]]:
    """`levelhead serve` in a process: host, port and the address that it prints."""
    line = [sys.executable, "-W", "error", "-m", "levelhead", "serve", *map(str, words)]
    process = subprocess.Popen(
        [*line, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        assert "Serving" in greeting, process.communicate()[1]
        address = greeting.split(": ")[1].split(" (Ctrl-C")[0]
        port = int(address.split(":")[2].split("/")[0])
        yield "127.0.0.1", port, address
    finally:
        process.terminate()
        _, complaints = process.communicate(timeout=20)
    assert process.returncode == 0, "Ctrl-C would leave with an error"
    assert not complaints, complaints


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[tuple[str, int, str]]:
    """A server of the run, with small limits."""
    limits = ["--max-mb", "0.2", "--max-megapixels", "0.5", "--timeout", "1.5", "--rate", "0"]
    with served(trained, *limits) as place:
        yield place


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, content and headers of one request."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, path, body, names)
        reply = connection.getresponse()
        raw = reply.read()
        kind = reply.headers.get("content-type", "")
        content = json.loads(raw) if kind.startswith("application/json") else raw
        return reply.status, content, {k.lower(): v for k, v in reply.headers.items()}


def encoded(image: np.ndarray, kind: str = "png") -> bytes:
    """An image file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind)
    return out.getvalue()


def test_it_answers_as_predict(trained: Path, server: tuple[str, int, str]) -> None:
    """The page would decide otherwise than the command, and its users could trust neither."""
    images = sorted((trained.parent / "photos").glob("*/?-1*.png"))
    predicted = predict(trained, images)
    for i, path in enumerate(images):
        status, row, _ = ask(server[1], "POST", f"/predict?name={path.name}", path.read_bytes())
        assert status == 200
        assert row["decision"] == predicted.decisions[i]
        assert row["set"] == list(predicted.answers.set_names[i])
        assert row["path"] == path.name
        np.testing.assert_allclose(row["probabilities"], predicted.probabilities[i], atol=1e-5)
        assert len(row["similar"]) == 4
    splits = (trained / "splits.csv").read_text().splitlines()
    own = next(line.split(",")[0] for line in splits if ",train," in line)
    status, row, _ = ask(server[1], "POST", "/predict", (trained.parent / own).read_bytes())
    assert row["similar"][0]["id"] == own, "a training image is most like itself"
    assert row["similar"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    status, jpeg, headers = ask(server[1], "GET", "/" + row["similar"][0]["image"])
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(jpeg)).size == (32, 32)


def test_judged_as_predicted(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged and what the policy rests on would not be what predictions are made of."""
    test = Run(trained).outputs("test")
    predicted = predict(trained, [trained.parent / str(id_) for id_ in test.ids or ()])
    known = Run(trained).policy.answers(test)
    assert known.probabilities is not None
    np.testing.assert_allclose(predicted.probabilities, known.probabilities, atol=1e-5)
    assert predicted.answers.kinds == known.kinds
    # Features that were kept before images were decoded otherwise are not taken again.
    before = features_key(Run(trained).recipe)
    monkeypatch.setattr("levelhead.training.frozen.VERSION", -1)
    assert features_key(Run(trained).recipe) != before


def test_an_exported_file_answers_alike(trained: Path, tmp_path: Path) -> None:
    """Who ships the file would serve other decisions than who ships the run."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = tmp_path / "model.onnx"
    assert command(["export", str(trained), str(model)]) == 0
    images = sorted((trained.parent / "photos").glob("*/?-2*.png"))
    ours, theirs = predict(trained, images), predict(model, images)
    assert ours.decisions == theirs.decisions
    assert ours.answers.set_names == theirs.answers.set_names
    assert ours.answers.kinds == theirs.answers.kinds
    with served(model) as (_, port, _):
        status, row, _ = ask(port, "POST", "/predict", images[0].read_bytes())
        assert (status, row["decision"], row["similar"]) == (200, ours.decisions[0], [])


def test_refusals(server: tuple[str, int, str]) -> None:
    """A stranger's file would stop the server, or be answered with a traceback."""
    port, draw = server[1], np.random.default_rng(0)
    image = encoded(np.zeros((9, 9, 3), np.uint8))
    noise = encoded(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    wide = encoded(np.zeros((1, 60_000, 3), np.uint8))
    assert ask(port, "POST", "/predict", wide)[0] == 200, "60,000 pixels in a row are few"
    cases = [
        ("POST", "/predict", b"hello", {}, 400, "not an image"),
        ("POST", "/predict", b"", {}, 400, "nothing was sent"),
        ("POST", "/predict", noise[:2000], {}, 400, "damaged or cut off"),
        ("POST", "/predict", encoded(np.zeros((800, 800), np.uint8)), {}, 413, "800 x 800 pixels"),
        ("POST", "/predict", draw.bytes(300_000), {}, 413, "more than 0.2 MB"),
        ("POST", "/predict", image, {"content_type": "multipart/form-data"}, 415, "a form"),
        ("POST", "/predict", image, {"host": "evil.example"}, 421, "loopback"),
        ("POST", "/predict", image, {"sec_fetch_site": "cross-site"}, 403, "another site"),
        ("GET", "/predict", None, {}, 405, "takes POST"),
        ("GET", "/training/999999", None, {}, 404, "no such training image"),
        ("GET", "/../../etc/passwd", None, {}, 404, "no such page"),
    ]
    for method, path, body, headers, code, words in cases:
        status, content, answer = ask(port, method, path, body, **headers)
        assert (status, list(content)) == (code, ["error"]), (path, content)
        assert words in content["error"]
        assert "\n" not in content["error"]
        assert answer["x-content-type-options"] == "nosniff"
    long = encoded(np.zeros((1, 70_000), np.uint8))
    assert "70000 x 1 pixels" in ask(port, "POST", "/predict", long)[1]["error"]
    # A bomb: 100 MB of black in 100 kB.
    bomb = encoded(np.zeros((10_000, 10_000), np.uint8))
    assert len(bomb) < 200_000
    assert ask(port, "POST", "/predict", bomb)[0] in (400, 413)
    assert ask(port, "GET", "/health")[1]["status"] == "ok"
    text = ask(port, "GET", "/metrics")[1].decode()
    assert 'levelhead_requests_total{code="421"} 1' in text
    assert "levelhead_waiting 0" in text


HALF = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nab"


@pytest.mark.parametrize(
    "begin", [b"", b"GET / HT", HALF], ids=["silent", "half a head", "half a body"]
)
def test_slow_clients_are_let_go(server: tuple[str, int, str], begin: bytes) -> None:
    """A few hundred that send nothing would hold every connection for ever."""
    with socket.create_connection(("127.0.0.1", server[1]), timeout=10) as client:
        client.sendall(begin)
        start, answer = time.monotonic(), b""
        while piece := client.recv(4096):  # ends when the server hangs up
            answer += piece
        assert 1 < time.monotonic() - start < 8
        assert (b"408" in answer) == begin.startswith(b"POST")


def test_a_token_is_asked_for(trained: Path, tmp_path: Path) -> None:
    """Whoever shares the network could use the model, or see the training images."""
    file = tmp_path / "token"
    file.write_text("a-token-of-some-length\n")
    with served(trained, "--token-file", file, "--rate", "3") as (_, port, address):
        assert address.endswith("?token=a-token-of-some-length")
        for path in ("/", "/metrics", "/training/0", "/?token=wrong"):
            status, content, headers = ask(port, "GET", path)
            assert status == 401
            assert "token" in content["error"]
            assert "set-cookie" not in headers
        assert ask(port, "GET", "/health")[0] == 200
        status, _, headers = ask(port, "GET", "/?token=a-token-of-some-length")
        assert status == 200
        assert "HttpOnly; SameSite=Strict" in headers["set-cookie"]
        cookie = headers["set-cookie"].split(";")[0]
        assert ask(port, "GET", "/metrics", cookie=cookie)[0] == 200
        bearer = {"authorization": "Bearer a-token-of-some-length"}
        codes = [ask(port, "POST", "/predict", b"no", **bearer)[0] for _ in range(9)]
        assert codes[:6] == [400] * 6
        assert 429 in codes, "more than three a second are let through"


def test_bad_wishes(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A traceback, or a server that nobody can reach."""
    (tmp_path / "short").write_text("1234")
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            (trained, "--port", str(port)): "cannot be listened at",
            (trained, "--port", "99999"): "from 0",
            (trained, "--host", "203.0.113.7"): "an address of this machine",
            (trained, "--token-file", tmp_path / "short"): "holds no token",
            (trained, "--token-file", tmp_path / "none"): "no such file",
            (trained, "--max-mb", "0"): "--max-mb 0",
            (trained, "--timeout", "nan"): "--timeout nan",
            (tmp_path, "--port", "0"): "not a run folder",
            (tmp_path / "other.onnx", "--port", "0"): "damaged",
            (tmp_path / "model.pt2", "--port", "0"): "holds no class names",
        }
        for words, reason in cases.items():
            assert command(["serve", *map(str, words)]) == 2, words
            line = capsys.readouterr().err
            assert reason in line
            assert line.count("\n") == 1
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert command(["serve", str(trained)]) == 2
    assert "pip install 'levelhead[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_decides_photos(
    trained: Path, server: tuple[str, int, str], tmp_path: Path, width: int
) -> None:
    """A file's name could run in the page, a phone not show it, or history be lost."""
    images = sorted((trained.parent / "photos").glob("*/?-3*.png"))
    hostile = tmp_path / "=1+1 <img src=x onerror=document.title='no'>, \"x\".png"
    hostile.write_bytes(images[0].read_bytes())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"hello")
    predicted = predict(trained, images)
    with tab(tmp_path / "profile") as page:
        page.open(server[2], width)
        page.give("#files", [*images, hostile, broken])
        page.until(f"document.body.dataset.decided == {len(images) + 2}")
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.value("document.querySelectorAll('#rows img').length") == len(images) + 2
        assert page.value("document.title").endswith("levelhead")
        shown = page.value("document.getElementById('decision').textContent")
        assert shown, "the first of the images is shown"
        page.until("document.querySelectorAll('#similar img').length == 4")
        page.until("[...document.querySelectorAll('#similar img')].every(i => i.naturalWidth > 0)")
        assert page.value("document.querySelectorAll('#bars li').length") == 2
        page.value("document.getElementById('export').click()")
        text = page.value("document.body.dataset.csv")
        import csv

        rows = {row["path"]: row for row in csv.DictReader(io.StringIO(text))}
        assert rows["'" + hostile.name], "a cell that a spreadsheet would run"
        for path, decision in zip(images, predicted.decisions, strict=True):
            assert rows[path.name]["decision"] == decision
        page.value("document.querySelector('#rows button').click()")  # the newest: the broken one
        assert page.value("document.getElementById('why').textContent").startswith("Not an image")
        page.value("document.getElementById('clear').click()")
        assert page.value("document.getElementById('history').hidden")
        refused = [text for text in page.complaints if "400 (Bad Request)" not in text]
        assert not refused, refused

"""docs/parts.md runs as it stands: in a plain loop, on what Lightning and on what Keras give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

TEXT = (Path(__file__).parents[1] / "docs" / "parts.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels float32 [N, 64] and labels of scikit-learn's digits."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def trained(names: dict[str, Any]) -> torch.nn.Module:
    """A linear classifier of digits, trained by the first snippet."""
    torch.manual_seed(0)
    x, y = digits()
    model = torch.nn.Linear(64, 10)
    parts = zip(x[:900].split(50), y[:900].split(50), strict=True)
    names |= {
        "model": model,
        "loader": list(parts) * 4,
        "optimizer": torch.optim.Adam(model.parameters(), 0.02),
    }
    exec(compile(SNIPPETS[0], "parts.md", "exec"), names)
    return model


def test_there_are_three_short_ones() -> None:
    """Five lines each were promised, and imports."""
    assert len(SNIPPETS) == 3
    for snippet in SNIPPETS:
        lines = [line for line in snippet.splitlines() if line and "import" not in line]
        assert len(lines) <= 5


def test_a_plain_loop() -> None:
    """Who copies the loop would train towards something else than torch's smoothing."""
    names: dict[str, Any] = {}
    model = trained(names)
    x, y = digits()
    assert (model(x[900:]).argmax(1) == y[900:]).float().mean() > 0.85
    from levelhead import losses, targets

    logits = model(x[:50])
    ours = losses.cross_entropy(logits, targets.smooth(y[:50], 10, 0.09, "others"))
    theirs = torch.nn.functional.cross_entropy(
        logits, y[:50], label_smoothing=0.1, reduction="none"
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("real", [False, True])
def test_lightning(real: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """What trainer.predict gives would not be taken, or be judged otherwise."""
    model = trained({})
    x, y = digits()

    class Stand:
        """What `Trainer.predict` gives: a list, a tensor [B, K] a batch."""

        def predict(self, model: torch.nn.Module, loader: Any) -> list[torch.Tensor]:
            with torch.no_grad():
                return [model(batch[0]) for batch in loader]

    trainer: Any = Stand()
    if real:
        lightning = pytest.importorskip("lightning")

        class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
            def predict_step(self, batch: Any) -> torch.Tensor:
                return model(batch[0])

        model, trainer = Module(), lightning.Trainer(logger=False, enable_progress_bar=False)
    data = torch.utils.data.TensorDataset(x[900:], y[900:])
    names: dict[str, Any] = {"torch": torch, "trainer": trainer, "model": model, "labels": y[900:]}
    names["loader"] = torch.utils.data.DataLoader(data, 64)
    exec(compile(SNIPPETS[1], "parts.md", "exec"), names)
    assert "'low'" in capsys.readouterr().out
    assert names["judged"]["n"] == len(x) - 900


@pytest.mark.parametrize("real", [False, True])
def test_keras(real: bool) -> None:
    """What Keras' predict gives (float32, labels [N, 1]) would not be taken."""
    linear = trained({})
    x, y = digits()
    pixels, labels = x.numpy(), y.numpy()[:, None]

    class Stand:
        """What `Model.predict` gives: float32 [N, K] after a softmax."""

        def predict(self, images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return linear(torch.from_numpy(images)).softmax(1).numpy()

    model: Any = Stand()
    if real:
        import os

        os.environ.setdefault("KERAS_BACKEND", "torch")
        keras = pytest.importorskip("keras")
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, "softmax")])
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(pixels[:900], labels[:900], epochs=20, verbose=0)
    names: dict[str, Any] = {"model": model, "x_new": pixels[1500:]}
    names |= {"x_validation": pixels[900:1200], "y_validation": labels[900:1200]}
    names |= {"x_test": pixels[1200:1500], "y_test": labels[1200:1500]}
    exec(compile(SNIPPETS[2], "parts.md", "exec"), names)
    assert names["calibrated"].shape == (len(x) - 1500, 10)
    torch.testing.assert_close(names["calibrated"].sum(1), torch.ones(len(x) - 1500).double())
    assert names["policy"].promises

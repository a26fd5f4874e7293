"""One file and one line: a stranger's loss with its own knob, and a metric that shows well."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from levelhead.cli import run as cli
from levelhead.errors import LevelheadError
from levelhead.judging import judge
from levelhead.losses import LOSSES
from levelhead.metrics import METRICS, interval_of
from levelhead.recipe import Recipe
from levelhead.report import metric_table
from levelhead.runs import open_run
from levelhead.targets import Targets
from worlds import replicates, sampled

LOSS = """
    import torch

    from levelhead.losses.loss import Knob, Loss
    from levelhead.losses.terms import expectation, log_softmax

    def _poly(logits, targets, options):
        \"\"\"CE + κ (1 − p_y): poly-1; κ = bend (1) -> [B].

        Source: Leng et al. 2022, "PolyLoss".
        \"\"\"
        log_p = log_softmax(logits)
        own = log_p.gather(1, targets.labels[:, None]).squeeze(1).exp()
        return options.knobs["bend"] * (1 - own) - expectation(log_p, targets, options)

    poly = Loss("poly", _poly, knobs={"bend": Knob(1.0, "κ", below=10.0)}, soft=False)
"""
METRIC = """
    from levelhead.metrics.metric import Metric, mean

    second = Metric(
        name="second",
        title="Second guess",
        short="second guesses",
        direction="up",
        unit="%",
        digits=2,
        source="share of examples whose label has the second highest score",
        prepare=lambda outputs: (outputs.rows.rank == 1).double(),
        value=mean("second"),
        interval="wilson",
        needs="probabilities",
    )
"""


def module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file outside of the package, imported."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, made)
    spec.loader.exec_module(made)
    return made


def reference() -> str:
    """docs/reference.md as `make docs` would write it now."""
    path = Path(__file__).parents[1] / "docs" / "build.py"
    spec = importlib.util.spec_from_file_location("docs_build", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return str(made.reference())


@pytest.fixture
def poly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One file, one line."""
    made = module(tmp_path, "poly_loss", LOSS, monkeypatch).poly
    monkeypatch.setitem(LOSSES, "poly", made)
    return made


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One file, one line."""
    made = module(tmp_path, "second_metric", METRIC, monkeypatch).second
    monkeypatch.setitem(METRICS, "second", made)
    return made


def test_a_loss_with_its_own_knob_is_a_file_and_a_line(poly, tmp_path, capsys, quick_judging):
    """A new loss would need a recipe field, a flag and three calls in other files."""
    words = ["train", "digits", "--model", "linear", "--epochs", "1", "--loss", "poly"]
    assert cli([*words, "--knobs", "bend=2.5", "--out", str(tmp_path / "run")]) == 0
    recipe = open_run(tmp_path / "run").recipe
    assert recipe.loss_knobs["bend"] == 2.5
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert "--knobs bend=2.5" in recipe.command()
    capsys.readouterr()
    for knobs, said in (
        ("bend=11", "--bend 11.0: κ of --loss poly must be in [0, 10)"),
        ("bent=1", "--bent 1.0: --loss poly has no bent"),
        ("bend", "--knobs bend: must be NAME=NUMBER"),
    ):
        assert cli([*words, "--knobs", knobs, "--out", str(tmp_path / "no")]) == 2
        assert said in capsys.readouterr().err
    assert cli([*words, "--targets", "explicit", "--out", str(tmp_path / "no")]) == 2
    assert "relaxes one label" in capsys.readouterr().err
    assert cli([*words[:-1], "ploy", "--out", str(tmp_path / "no")]) == 2
    assert "did you mean 'poly'" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    (row,) = re.findall(r"\| `poly` \| (.*) \|", reference())
    assert row == "bend κ = 1 | CE + κ (1 − p_y): poly-1; κ = bend (1) -> [B]."


def test_a_strangers_loss_keeps_the_contract(poly):
    """What the table promises would hold for our own losses alone."""
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = Targets(torch.arange(6) % 4)
    loss = poly(logits, targets, smoothing=0.1, class_weights=torch.ones(4), bend=2.0)
    p = logits.softmax(1).gather(1, targets.labels[:, None]).squeeze(1)
    plain = torch.nn.functional.cross_entropy(
        logits, targets.labels, label_smoothing=0.1, reduction="none"
    )
    torch.testing.assert_close(loss, plain + 2 * (1 - p))
    assert gradcheck(lambda z: poly(z, targets, bend=2.0), logits.requires_grad_())
    with pytest.raises(LevelheadError, match="soft targets"):
        poly(logits, Targets(targets.labels, torch.full((6, 4), 0.25)))


def test_a_metric_that_shows_well_is_a_file_and_a_line(second, tmp_path, capsys):
    """A new metric would be printed as a bare fraction under its key."""
    outputs = sampled(300, 5, 2.0)
    outputs.save(tmp_path / "p.safetensors")
    words = ["audit", str(tmp_path / "p.safetensors"), "--methods", "temperature"]
    assert cli([*words, "--out", str(tmp_path / "out")]) == 0
    share = float((outputs.rows.rank == 1).double().mean())
    assert re.search(rf"Second guess +{100 * share:.1f} % \[", capsys.readouterr().out)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Second guess" in page
    judgement = judge(outputs, metrics=("second",), resamples=50)
    assert judgement["metrics"]["second"]["value"] == pytest.approx(share)
    assert "Second guess" in metric_table({"test": judgement})
    (row,) = re.findall(r"\| `second` \| (.*) \|", reference())
    assert row.startswith("Second guess | % | higher | wilson | share of examples")
    quantity = second.quantity
    assert (quantity.title, quantity.unit, quantity.digits) == ("second guesses", " points", 2)
    assert quantity.share


def test_a_strangers_metric_keeps_the_contract(second):
    """What the table promises would hold for our own metrics alone."""
    outputs = sampled(200, 4)
    prepared = second.prepare(outputs)
    assert len(prepared) == 200
    interval = interval_of(second, prepared)
    value = second.value(prepared)["second"]
    assert interval.low < value < interval.high
    ones = torch.ones(3, 200, dtype=torch.float64)
    np.testing.assert_allclose(second.value(prepared, ones)["second"], value)
    assert replicates(second, [prepared], 20).shape == (1, 20)

"""Calibrator: the contract of the table CALIBRATORS."""

from __future__ import annotations

from typing import Any, Protocol

from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs


class Calibrator(Protocol):
    """What a calibrator does once its class has fitted it: `fit_on(outputs)`, `from_json(…)`."""

    def apply(self, outputs: Outputs) -> Outputs:
        """Calibrated Outputs."""

    def summary(self) -> dict[str, Any]:
        """Its block in a judgement: what was applied, and what it was fitted on."""

    def sentence(self) -> str:
        """What was found, for people."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the key `method`."""


def fitting_split(outputs: Outputs) -> str:
    """The name of the split to fit on. Raises LevelheadError for train and test: the model saw
    the one, and the other has to judge."""
    if outputs.split in ("train", "test"):
        raise LevelheadError(
            f"outputs of the split {outputs.split!r}: a calibrator is fitted on validation, on "
            "examples that neither trained nor judge the model"
        )
    return outputs.split or "outputs of no named split"

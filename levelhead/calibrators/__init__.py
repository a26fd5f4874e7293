"""Calibrators: fitted on validation, Outputs in and out, saved as JSON."""

from typing import Any

from levelhead.calibrators.affine import BiasTemperature, Vector
from levelhead.calibrators.binary import Beta, Platt, Quadratic, VennAbers
from levelhead.calibrators.calibrator import Calibrator
from levelhead.calibrators.matrix import Dirichlet, Matrix
from levelhead.calibrators.one_vs_rest import Histogram, Isotonic
from levelhead.calibrators.structured import StructuredMatrix, StructuredVector
from levelhead.calibrators.temperature import Temperature
from levelhead.errors import LevelheadError, nearest

CALIBRATORS: dict[str, type[Calibrator]] = {
    entry.method: entry
    for entry in (
        *(Temperature, StructuredVector, StructuredMatrix),
        *(BiasTemperature, Vector, Matrix, Dirichlet),
        *(Platt, Beta, Quadratic, VennAbers, Isotonic, Histogram),
    )
}


def spoken(method: str) -> str:
    """A calibrator's name in a sentence.

    >>> spoken("sms"), spoken("bias_temperature")
    ('SMS', 'bias temperature')
    """
    short = {"svs": "SVS", "sms": "SMS", "venn_abers": "Venn–Abers"}
    return short.get(method, method.replace("_", " "))


def calibrator_of(stored: Any) -> Calibrator:
    """The calibrator whose `to_json` this is. Raises LevelheadError for an unknown method."""
    method = stored.get("method") if isinstance(stored, dict) else None
    if method not in CALIBRATORS:
        fix = nearest(str(method), list(CALIBRATORS))
        raise LevelheadError(f"calibration: unknown method {method!r}; {fix}")
    return CALIBRATORS[method].from_json(stored)


__all__ = ["CALIBRATORS", "Calibrator", "Temperature", "calibrator_of", "spoken"]

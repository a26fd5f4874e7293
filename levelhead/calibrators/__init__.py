"""Calibrators: fitted on validation, Outputs in and out, saved as JSON."""

from levelhead.calibrators.calibrator import Calibrator
from levelhead.calibrators.temperature import Temperature

CALIBRATORS: dict[str, type[Temperature]] = {"temperature": Temperature}

__all__ = ["CALIBRATORS", "Calibrator", "Temperature"]

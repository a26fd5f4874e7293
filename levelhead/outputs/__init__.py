"""Outputs: what a classifier said about labelled examples; every judgement is a function of it."""

from levelhead.outputs.outputs import Outputs, Rows, log_probabilities, probabilities
from levelhead.outputs.read import read_acceptable, read_people, read_predictions, read_superclasses
from levelhead.outputs.validate import Kind

__all__ = [
    "Kind",
    "Outputs",
    "Rows",
    "log_probabilities",
    "probabilities",
    "read_acceptable",
    "read_people",
    "read_predictions",
    "read_superclasses",
]

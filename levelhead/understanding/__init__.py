"""What smoothing does to a network, asked of finished runs: one file a question."""

from levelhead.understanding.distillation import distillation_curves
from levelhead.understanding.information import information
from levelhead.understanding.penultimate import penultimate
from levelhead.understanding.runs import Understood, name_of, run_data, train_outputs
from levelhead.understanding.tradeoff import tradeoff

__all__ = [
    "Understood",
    "distillation_curves",
    "information",
    "name_of",
    "penultimate",
    "run_data",
    "tradeoff",
    "train_outputs",
]

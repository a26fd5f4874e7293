"""What smoothing does to a network, asked of finished runs: one file a question."""

from levelhead.studies.distillation_curves import distillation_curves
from levelhead.studies.information_curve import information, informations
from levelhead.studies.landscape import landscape
from levelhead.studies.penultimate import penultimate
from levelhead.studies.tradeoff import tradeoff
from levelhead.studies.understood import Understood, name_of
from levelhead.training.run_data import run_data, train_outputs

__all__ = [
    "Understood",
    "distillation_curves",
    "information",
    "informations",
    "landscape",
    "name_of",
    "penultimate",
    "run_data",
    "tradeoff",
    "train_outputs",
]

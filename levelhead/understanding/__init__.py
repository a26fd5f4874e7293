"""What smoothing does to a network, asked of finished runs: one file a question."""

from levelhead.understanding.information import information
from levelhead.understanding.penultimate import penultimate
from levelhead.understanding.runs import Understood, name_of, run_data, train_outputs

__all__ = ["Understood", "information", "name_of", "penultimate", "run_data", "train_outputs"]

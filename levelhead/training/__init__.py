"""Training: a recipe becomes a run folder; `loop.fit` is the loop."""

from levelhead.training.loop import fit
from levelhead.training.run import resume, train

__all__ = ["fit", "resume", "train"]

"""What a training tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """Something to say aloud: a choice made, a warning about the data."""

    text: str


@dataclass(frozen=True)
class Progress:
    """How far a slow stage outside the loop is: `what` is a word or two."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Step:
    """Within an epoch, twice a second: where training stands; `images_left` counts all epochs."""

    step: int
    steps: int
    loss: float
    images_per_second: float
    images_left: int


@dataclass(frozen=True)
class Epoch:
    """After one epoch: a row of history.csv.

    `train_loss` is what was minimised (on augmented batches, as they came); `train_nll` and
    `train_accuracy` are plain, on the same batches, of mixed images against the label of the
    larger share; validation is plain and in evaluation mode. A mean confidence (top probability)
    above the accuracy is over-confident.
    `seconds` counts from the start of training, with validation; `images_per_second` without.
    """

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: float
    train_nll: float
    train_accuracy: float
    validation_nll: float
    validation_accuracy: float
    validation_confidence: float
    images_per_second: float


@dataclass(frozen=True)
class Snapshot:
    """The network stands as it is after `step` steps, for whoever keeps it (`save_every`)."""

    step: int


Event = Note | Progress | Step | Snapshot | Epoch

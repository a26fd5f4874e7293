"""The course of a training in its folder: `fit`, kept after every epoch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from levelhead.data.batches import Batch
from levelhead.files import clean, write_rows
from levelhead.training.checkpoint import State, save_checkpoint
from levelhead.training.events import Epoch, Snapshot, Step
from levelhead.training.loop import Batches, Held, fit
from levelhead.training.regime import Regime


def course(
    folder: Path,
    state: State,
    history: list[Epoch],
    batches: Batches,
    held: Batch | Held,
    regime: Regime,
    *,
    renamed: Mapping[str, str] | None = None,
    before_saving: Callable[[Epoch], None] = lambda epoch: None,
) -> Iterator[Step | Snapshot | Epoch]:
    """The events of `fit` from a state on, whose `history` grows; kept in the folder.

    renamed: columns that are called otherwise in history.csv. before_saving: what else the state
    is to carry from an epoch.
    """
    for event in fit(state, batches, held, regime):
        if isinstance(event, Epoch):
            history.append(event)
            before_saving(event)
            save_checkpoint(folder, state, history)
            write_rows(folder / "history.csv", history, renamed)
        yield event
    write_rows(folder / "history.csv", history, renamed)


def tidy(folder: Path) -> None:
    """Remove what a finished run needs no longer."""
    clean(folder)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)

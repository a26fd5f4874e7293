"""What training carries from epoch to epoch, kept in one file and read back bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.files import refuse_pipes, write
from levelhead.models.network import Classifier
from levelhead.training import optim
from levelhead.training.events import Epoch
from levelhead.training.objective import Objective


@dataclass
class State:
    """What training carries from epoch to epoch, and what a checkpoint holds."""

    network: Classifier
    optimisers: list[torch.optim.Optimizer]
    objective: Objective
    epoch: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the weights of the last epochs


def save_checkpoint(folder: Path, state: State, history: list[Epoch]) -> None:
    """Everything needed to go on, in one file that replaces the last one whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in state_of(state.network).items()}
    tensors |= {
        name: tensor.contiguous() for name, tensor in optim.state_tensors(state.optimisers).items()
    }
    if (online := state.objective.online) is not None:
        tensors |= {"online.sums": online.sums, "online.table": online.table}
    tensors |= {f"sum.{name}": tensor for name, tensor in state.sums.items()}
    progress = {
        "epoch": state.epoch,
        "seconds": state.seconds,
        "step_seconds": state.step_seconds,
        "history": [dataclasses.asdict(row) for row in history],
        "checksum": checksum(tensors),
    }
    content = save(tensors, metadata={"levelhead": json.dumps(progress)})
    write(folder / "checkpoint" / "last.safetensors", content)


def load_checkpoint(folder: Path, state: State) -> list[Epoch]:
    """Put the last checkpoint, if there is one, into `state`; returns the history so far."""
    path = folder / "checkpoint" / "last.safetensors"
    if not path.exists():
        return []
    refuse_pipes(path)
    try:
        with safe_open(path, "pt") as file:
            progress = json.loads((file.metadata() or {})["levelhead"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if progress.get("checksum", checksum(tensors)) != checksum(tensors):
            raise ValueError("its bytes have changed since it was written")
        model = {
            name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.")
        }
        state.network.load_state_dict(model)
        optim.load_state_tensors(state.optimisers, tensors)
        if (online := state.objective.online) is not None:
            online.sums.copy_(tensors["online.sums"])
            online.table.copy_(tensors["online.table"])
        state.sums = {
            name.removeprefix("sum."): tensor
            for name, tensor in tensors.items()
            if name.startswith("sum.")
        }
        state.epoch = progress["epoch"]
        state.seconds, state.step_seconds = progress["seconds"], progress["step_seconds"]
        return [Epoch(**row) for row in progress["history"]]
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LevelheadError(
            f"{path}: not a checkpoint of this run ({reason}); delete it to train from the start"
        ) from None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors on the CPU."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def state_of(network: Classifier) -> dict[str, Tensor]:
    """The network's tensors, on the CPU and contiguous, by name."""
    return {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}

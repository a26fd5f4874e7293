"""Tuning the last blocks beside the head alone, on few and on many images of a data set.

    python benchmarks/photos.py trashnet/ [cifar10/] [--images 60 300 1800] [--seeds 3]

For each number of images (drawn anew for each seed, every class at least twice) three trainings of
lite0 at the size that it takes: the head alone, the default, and tuning although there are fewer
images than the default asks for. All are judged on the same test images (2,000 at most). The
difference of accuracy is paired by example and seed. No training's time holds the decoding.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from levelhead.data import from_arrays
from levelhead.recipe import Recipe
from levelhead.text import columns
from levelhead.training import defaults
from levelhead.training.prepare import prepare
from levelhead.training.run import train

MOST = 2000
WAYS = {"head alone": False, "default": None, "tuned always": True}


def drawn(labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Places of so many images, two of each class first."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    first = [order[labels[order] == k][:2] for k in np.unique(labels)]
    sure = np.concatenate(first)
    rest = order[~np.isin(order, sure)]
    return np.concatenate([sure, rest])[:number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--images", type=int, nargs="+", default=[60, 300, 1800])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="lite0")
    options = parser.parse_args()
    usual, rows = defaults.LEAST_TUNED, []
    for data in options.data:
        _, read = prepare(Recipe(data, model=options.model))
        pool = [read.train, read.validation]
        images = np.concatenate([part.images for part in pool])
        labels = np.concatenate([part.labels for part in pool])
        test = (read.test.images[:MOST], read.test.labels[:MOST])
        size, names = images.shape[1], read.class_names
        for number in options.images:
            right: dict[str, list[torch.Tensor]] = {way: [] for way in WAYS}
            nll: dict[str, list[float]] = {way: [] for way in WAYS}
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for seed in range(options.seeds):
                place = drawn(labels, number, seed)
                arrays = from_arrays(images[place], labels[place], class_names=names, test=test)
                for way, finetune in WAYS.items():
                    defaults.LEAST_TUNED = 0 if finetune else usual
                    folder = Path(tempfile.mkdtemp())
                    recipe = Recipe(
                        "arrays", model=options.model, image_size=size, finetune=finetune,
                        seed=seed, split_seed=seed, cache=False,
                    )  # fmt: skip
                    run = train(recipe, folder / "run", data=arrays)
                    outputs = run.outputs("test")
                    right[way].append(outputs.rows.correct.double())
                    nll[way].append(float(outputs.rows.nll.mean()))
                    seconds[way].append(run.findings["seconds"])
                    shutil.rmtree(folder)
            for way in WAYS:
                change = torch.stack(right[way]) - torch.stack(right["head alone"])
                by_seed = change.mean(1)
                error = float((change.mean(0).var() / change.shape[1]).sqrt())
                accuracy = 100 * float(torch.stack(right[way]).mean())
                rows.append(
                    [
                        f"{Path(data).name}, {number:,}, {way}",
                        f"{accuracy:.1f}",
                        f"{100 * float(by_seed.mean()):+.1f} ± {196 * error:.1f}",
                        f"{np.mean(nll[way]):.3f}",
                        f"{np.mean(seconds[way]):.0f}",
                    ]
                )
                print(*rows[-1], sep="  ", flush=True)
    print(columns(["data, images, way", "accuracy %", "against the head", "NLL", "s"], rows))


if __name__ == "__main__":
    main()

"""The page of a network: its layers, and what its units see; of a trained run, what moves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from levelhead.files import write
from levelhead.models import Network, Shape, build
from levelhead.models.describe import Description, describe_network, merged
from levelhead.report.page import page, svgs
from levelhead.report.run_page import run_images
from levelhead.representation.receptive_field import effective_fields
from levelhead.runs import finished_run, shape_of

IMAGES = 32
"""Images whose gradients are averaged."""


def describe_run(folder: str | Path, *, batch_size: int = 1) -> tuple[Description, Network, Tensor]:
    """The layers of a finished run, its trained network, and images that it judged.

    Raises LevelheadError for a folder that is no finished run.
    """
    run = finished_run(folder)
    network, data = run.network(), run.data
    shape = shape_of(run.recipe, data["channels"], data["image_size"], len(data["class_names"]))
    description = describe_network(network, shape, model=run.recipe.model, batch_size=batch_size)
    return description, network, _images(folder, shape)


def _images(folder: str | Path, shape: Shape) -> Tensor:
    """Some test images at the network's size, uint8 [N,C,H,W]; noise where they have moved."""
    import cv2

    shown = list(run_images(folder).values())[:IMAGES]
    rows = []
    for image in shown:
        if image.ndim == 2:
            image = image[:, :, None]
        small = cv2.resize(image, (shape.size, shape.size), interpolation=cv2.INTER_AREA)
        small = small.reshape(shape.size, shape.size, -1)
        if small.shape[2] != shape.channels:
            small = np.repeat(small[:, :, :1], shape.channels, 2)
        rows.append(small)
    if not rows:
        return _noise(shape)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def _noise(shape: Shape) -> Tensor:
    """Images of independent pixels, uint8 [N,C,H,W]."""
    generator = torch.Generator().manual_seed(0)
    size = (8, shape.channels, shape.size, shape.size)
    return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)


def first_network(description: Description, width: int | None = None) -> tuple[Network, Tensor]:
    """The network of a description with its first weights, and noise for it to look at."""
    sizes = description.channels, description.image_size, description.classes
    shape = Shape(*sizes, width)
    grey = torch.full((description.channels,), 127.5)
    return build(description.model, shape, mean=grey, std=grey / 2), _noise(shape)


def write_description(
    description: Description,
    folder: str | Path,
    network: Network,
    images: Tensor,
    *,
    trained: bool,
    command: str = "",
) -> Path:
    """Write report.html; returns its path. The gradients are of `network` on `images`."""
    from levelhead.figures import fields

    paths = [row.path for row in fields.drawn(description)]
    known = [path for path in paths if path in dict(network.body.named_modules())]
    strengths = effective_fields(network, images, known)
    panels = fields.data(description, strengths)
    content = page(
        "description",
        title=description.model,
        found={"words": list(description.words)},
        description=description,
        blocks=merged(description.layers),
        panels=svgs("receptive_field", panels),
        trained=trained,
        command=command,
    )
    path = Path(folder) / "report.html"
    write(path, content)
    return path

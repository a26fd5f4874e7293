"""An exported run beside the run in PyTorch, and beside the bare network in onnxruntime.

    python benchmarks/exported.py RUN photos/ [--rounds 3]

"Decoded": from files on, as `levelhead predict` works. "Network": from decoded images on; the bare
network has neither policy nor distances, and gets whole batches of floats. All in turn, the median
of the rounds counts; ratios are against PyTorch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from levelhead.data import load_images
from levelhead.data.layouts.folder import image_paths
from levelhead.deploy.decider import ONNX_AT_ONCE, decider_of
from levelhead.deploy.export import deployed, export
from levelhead.deploy.exported import session_of
from levelhead.deploy.module import Bare
from levelhead.deploy.predict import predict
from levelhead.deploy.quantise import export_int8
from levelhead.errors import LevelheadError
from levelhead.runs import finished_run
from levelhead.text import columns


class Network(torch.nn.Module):
    """The network alone: floats of the right size in, logits out."""

    def __init__(self, bare: Bare) -> None:
        super().__init__()
        self.network = bare.deployed.network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.head(self.network.features(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("photos")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    run, paths = finished_run(options.run), image_paths([options.photos])
    with tempfile.TemporaryDirectory() as folder:
        sources: dict[str, str | Path] = {"PyTorch": run.folder}
        sources["ONNX"] = Path(folder) / "model.onnx"
        export(run, sources["ONNX"], batch=True)
        try:
            export_int8(run, Path(folder) / "int8.onnx", batch=True)
            sources["ONNX, 8 bits"] = Path(folder) / "int8.onnx"
        except LevelheadError as error:
            print(error)
        deciders = {name: decider_of(source) for name, source in sources.items()}
        one = next(iter(deciders.values()))
        images = load_images(
            paths, image_size=one.size, channels=one.channels, resize=one.resize, bits=one.bits
        )[0].images
        network = Network(Bare(deployed(run))).eval()
        example = torch.from_numpy(images[:2]).permute(0, 3, 1, 2).float().contiguous()
        traced = torch.export.export(
            network, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
        )
        program = torch.onnx.export(traced, dynamo=True, opset_version=18, verbose=False)
        assert program is not None
        session = session_of(program.model_proto.SerializeToString(), "bare")
        name = session.get_inputs()[0].name

        def bare() -> None:
            for i in range(0, len(images), ONNX_AT_ONCE):
                part = images[i : i + ONNX_AT_ONCE].transpose(0, 3, 1, 2).astype(np.float32)
                session.run(None, {name: part})

        tasks: dict[tuple[str, str], Callable[[], object]] = {}
        for label, source in sources.items():
            tasks["decoded", label] = lambda source=source: predict(source, paths)
        for label, decider in deciders.items():
            tasks["network", label] = lambda decider=decider: [
                decider.decide(images[i : i + 64]) for i in range(0, len(images), 64)
            ]
        tasks["network", "bare network in onnxruntime"] = bare
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
        for number in range(options.rounds + 1):
            for key, task in tasks.items():
                start = time.perf_counter()
                task()
                if number:
                    seconds[key].append(time.perf_counter() - start)
    rates = {key: len(images) / float(np.median(times)) for key, times in seconds.items()}
    rows = [
        [
            what, label, f"{rate:.0f}", f"{rate / rates[what, 'PyTorch']:.2f}",
            f"{len(images) / max(seconds[what, label]):.0f} to "
            f"{len(images) / min(seconds[what, label]):.0f}",
        ]
        for (what, label), rate in rates.items()
    ]  # fmt: skip
    print(f"{len(images):,} images, {torch.get_num_threads()} threads")
    print(columns(["from", "by", "images/s", "ratio", "range"], rows))


if __name__ == "__main__":
    main()

"""The commands that take a run elsewhere: export, verify, serve, watch."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from levelhead.cli.common import (
    add_device,
    add_json,
    add_out,
    add_quiet,
    deliver,
    name_broken,
    new_result_folder,
    print_json,
)
from levelhead.cli.flags import Parser
from levelhead.text import printable


def export(words: list[str]) -> int:
    """`levelhead export`."""
    parser = Parser(
        prog="levelhead export",
        description="Write a run as one file that decides: uint8 RGB images of any size in; "
        "resize, network, test-time views, calibrator and policy inside; probabilities, class, "
        "decision, set, confidence and likeness out. It is written only where it answers as the "
        "run does.",
    )
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument(
        "out", metavar="FILE", help="model.onnx, or model.pt2 (torch's exported program)"
    )
    parser.add_argument(
        "--batch", action="store_true", help="take several images of one size at a time"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="8-bit convolutions, scaled by the run's own images: smaller and faster; judged "
        "again, and not written where a promise of the policy would no longer hold",
    )
    add_json(parser)
    options = parser.parse(words)

    from levelhead.deploy.export import export as write_export

    if options.int8:
        from levelhead.deploy.quantise import export_int8

        quantised = export_int8(options.run, options.out, batch=options.batch)
        if options.json:
            print_json(quantised.to_json() | {"file": options.out})
        else:
            print("\n".join([f"Written: {options.out}", *quantised.words]))
        return 0
    verified = write_export(options.run, options.out, batch=options.batch)
    if options.json:
        print_json(verified.to_json() | {"file": options.out})
        return 0
    print("\n".join([f"Written: {options.out}", f"Beside the run, on {verified.words[0]}"]))
    if options.out.endswith(".onnx"):
        print(f"Next: levelhead verify {options.out} {options.run} IMAGE...")
    return 0


def verify(words: list[str]) -> int:
    """`levelhead verify`."""
    parser = Parser(
        prog="levelhead verify",
        description="Whether an exported file answers as its run does, on your own images; leaves "
        "with 1 where it does not.",
    )
    parser.add_argument("file", metavar="FILE", help="what levelhead export wrote")
    parser.add_argument("run", metavar="RUN", help="the run it was made of")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, or folders")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.deploy.verify import verify as verify_export

    verified = verify_export(options.file, options.run, options.images)
    name_broken(verified.broken)
    if options.json:
        print_json(verified.to_json())
    else:
        print("\n".join(printable(line) for line in verified.words))
    return 0 if verified.good else 1


def serve(words: list[str]) -> int:
    """`levelhead serve`."""
    parser = Parser(
        prog="levelhead serve",
        description="A page that decides the images dropped on it by the run's policy, and POST "
        "/predict for programs (curl --data-binary @photo.jpg http://127.0.0.1:8000/predict); "
        "/health and /metrics beside. Nothing that is sent is kept.",
    )
    parser.add_argument("source", metavar="RUN", help="a finished run, or the .onnx file of one")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: 127.0.0.1, this machine alone); at another, such as "
        "0.0.0.0 for phones in the same network, a token is asked for, which travels unencrypted",
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="0: any that is free (default: 8000)"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="ask for the token in this file, whatever the host"
    )
    for flag, default, help_ in (
        ("--max-mb", 20.0, "megabytes of an image"),
        ("--max-megapixels", 50.0, "millions of pixels of an image"),
        ("--rate", 50.0, "requests a second of one address, 0: any"),
        ("--timeout", 20.0, "seconds for a request to arrive, and for its answer"),
    ):
        parser.add_argument(
            flag, type=float, default=default, metavar="X",
            help=f"{help_} (default: {default:g})",
        )  # fmt: skip
    add_device(parser)
    add_json(parser)
    options = parser.parse(words)

    from levelhead.cli.terminal import counter
    from levelhead.serving.application import Limits
    from levelhead.serving.serve import serve as serve_images

    def ready(address: str) -> None:
        if options.json:
            print(json.dumps({"source": options.source, "address": address}), flush=True)
        else:
            print(f"Serving {printable(options.source)}: {address} (Ctrl-C stops it)", flush=True)

    serve_images(
        options.source,
        host=options.host,
        port=options.port,
        token_file=options.token_file,
        limits=Limits(
            megabytes=options.max_mb,
            megapixels=options.max_megapixels,
            rate=options.rate,
            seconds=options.timeout,
        ),
        device=options.device,
        ready=ready,
        progress=counter("features of training images"),
    )
    return 0


def watch(words: list[str]) -> int:
    """`levelhead watch`."""
    parser = Parser(
        prog="levelhead watch",
        description="Whether new images are as the run's test images were, by features, "
        "confidence, answers and looks; with labels, whether the policy's promises still hold; "
        "and which images to label next. It is for images drawn one by one, not for bursts of a "
        "scene. Leaves with 1 where something has changed.",
    )
    parser.add_argument("run", metavar="RUN", help="a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="new images, or folders of them")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="CSV of the lines path,label for some of them, in the order in which they came",
    )
    parser.add_argument(
        "--next", type=int, default=50, metavar="N", help="images to label next (default: 50)"
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.95,
        metavar="L",
        help="false alarms have a share of 1 − L at most (default: 0.95)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of permutations and clusters (default: 0)"
    )
    add_device(parser)
    add_out(parser, "folder for report.html, findings.json and label_next.csv")
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)

    from levelhead.cli.terminal import counter
    from levelhead.runs import finished_run
    from levelhead.watching.watch import watch as watch_images
    from levelhead.watching.watch_page import write_watch

    run = finished_run(options.run)
    name = Path(options.run).absolute().name
    with new_result_folder(options, f"{name}-watch") as folder:
        result = watch_images(
            run,
            options.images,
            labels=options.labels,
            n_next=options.next,
            level=options.level,
            seed=options.seed,
            device=options.device,
            progress=counter("looking at", rate=True, quiet=options.quiet),
        )
        name_broken(result.broken)
        command = shlex.join(["levelhead", "watch", *words])
        lines = [*map(printable, result.words)]
        lines += [f"Label next: {folder}/label_next.csv", f"Report: {folder}/report.html"]
        deliver(
            result,
            lines,
            as_json=options.json,
            folder=folder,
            write_pages=lambda folder: write_watch(
                result, folder, title=name, command=command, bits=int(run.data.get("bits", 16))
            ),
        )
    return 1 if result.alarm else 0

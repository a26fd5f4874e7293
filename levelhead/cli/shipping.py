"""The commands that take a run elsewhere: export, verify."""

from __future__ import annotations

import sys

from levelhead.cli.common import add_json, print_json
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
    add_json(parser)
    options = parser.parse(words)

    from levelhead.deploy.export import export as write_export

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

    from levelhead.deploy.export import verify as verify_export

    verified = verify_export(options.file, options.run, options.images)
    for path, why in verified.broken:
        print(f"levelhead: {printable(path)}: {why}; left out", file=sys.stderr)
    if options.json:
        print_json(verified.to_json())
    else:
        print("\n".join(printable(line) for line in verified.words))
    return 0 if verified.good else 1

"""The commands that look before anything is trained: check, describe, models, cache."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from levelhead.cli.common import add_json, add_out, deliver, print_json
from levelhead.cli.flags import Parser, add_recipe, recipe_of


def check(words: list[str]) -> int:
    """`levelhead check`."""
    parser = Parser(
        prog="levelhead check", description="What is in a data set, and what is wrong with it."
    )
    parser.add_argument("data", metavar="DATA", help="the data, as for levelhead train")
    parser.add_argument("--label-column", default="", metavar="NAME", help="as for train")
    parser.add_argument("--group-column", default="group", metavar="NAME", help="as for train")
    parser.add_argument("--outside-paths", action="store_true", help="as for train")
    parser.add_argument(
        "--augmented",
        metavar="PNG",
        help="draw what training would see of a few images; takes every flag of levelhead train",
    )
    add_json(parser)
    if any(word.partition("=")[0] == "--augmented" for word in words):
        options, rest = parser.parse_known_args(words)
        return _augmented(options, rest)
    options = parser.parse(words)

    from levelhead.cli.terminal import counter
    from levelhead.data.check import check
    from levelhead.data.check import words as sentences

    findings = check(
        options.data,
        label_column=options.label_column,
        group_column=options.group_column,
        outside_paths=options.outside_paths,
        progress=counter("reading images"),
    )
    if options.json:
        print_json(findings)
        return 0
    print("\n".join(sentences(findings)))
    if findings["refusal"] is None:
        more = ["--skip-broken"] if findings["unreadable"] else []
        print(f"Next: levelhead train {shlex.join([*words, *more])}")
    return 0


def _augmented(options: Any, rest: list[str]) -> int:
    """What training sees: a PNG, and how it was made."""
    from levelhead.errors import LevelheadError
    from levelhead.figures import FIGURES
    from levelhead.figures.canvas import to_png
    from levelhead.files import write
    from levelhead.training.augmentation import preview

    out = Path(options.augmented)
    if out.suffix.lower() != ".png":
        raise LevelheadError(f"--augmented {out}: give a name that ends in .png")
    trainer = Parser(prog="levelhead train")
    add_recipe(trainer)
    recipe = recipe_of(trainer.parse([options.data, *rest])).replace(
        label_column=options.label_column,
        group_column=options.group_column,
        outside_paths=options.outside_paths,
    )
    resolved, panels = preview(recipe)
    write(out, to_png(panels[0], FIGURES["augmented"].draw))
    if options.json:
        print_json({"augmented": str(out), "recipe": dataclasses.asdict(resolved)})
    else:
        print(f"{panels[0].label}: {out}", f"Next: {recipe.command()}", sep="\n")
    return 0


def describe(words: list[str]) -> int:
    """`levelhead describe`."""
    parser = Parser(
        prog="levelhead describe",
        description="The layers of a network: shapes, parameters with their formulas, "
        "multiply-accumulates, what a unit sees, memory. With --out a page that draws what units "
        "see; of a run, also what moves them.",
    )
    parser.add_argument("model", metavar="MODEL|RUN", help="as --model, or the folder of a run")
    parser.add_argument("--image-size", type=int, metavar="N", help="side, px (default: its own)")
    parser.add_argument("--classes", type=int, metavar="K", help="(default: 10)")
    parser.add_argument("--channels", type=int, metavar="N", help="(default: 3)")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="for the memory (default: 1)"
    )
    parser.add_argument("--width", type=int, metavar="N", help="as for levelhead train")
    parser.add_argument("--blocks", action="store_true", help="a row a block, not a row a layer")
    add_out(parser, "folder for report.html and description.json")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.errors import LevelheadError
    from levelhead.models.describe import describe as describe_model

    for name in ("image_size", "classes", "channels", "batch_size", "width"):
        value = getattr(options, name)
        if value is not None and value < (2 if name == "classes" else 1):
            flag = "--" + name.replace("_", "-")
            raise LevelheadError(f"{flag} {value}: must be {2 if name == 'classes' else 1} or more")
    folder = Path(options.model)
    trained: tuple[Any, Any] | None = None
    if (folder / "recipe.toml").exists():
        for name in ("image_size", "classes", "channels", "width"):
            if (value := getattr(options, name)) is not None:
                flag = "--" + name.replace("_", "-")
                raise LevelheadError(f"{flag} {value}: {folder} has its own; leave it out")
        from levelhead.report.describe_page import describe_run

        description, network, images = describe_run(folder, batch_size=options.batch_size)
        trained = network, images
    else:
        description = describe_model(
            options.model,
            image_size=options.image_size,
            classes=options.classes or 10,
            channels=options.channels or 3,
            batch_size=options.batch_size,
            width=options.width,
        )
    lines = [*description.words, "", description.table(blocks=options.blocks)]
    if options.out is None:
        return deliver(description, lines, as_json=options.json)

    from levelhead.report.describe_page import first_network, write_description
    from levelhead.runs import new_folder

    def write_page(into: Path) -> None:
        network, images = trained or first_network(description, options.width)
        command = shlex.join(["levelhead", "describe", *words])
        page = write_description(
            description, into, network, images, trained=trained is not None, command=command
        )
        lines.append(f"Report: {page}")

    out = new_folder(options.out, "description")
    return deliver(description, lines, as_json=options.json, folder=out, write_pages=write_page)


def cache(words: list[str]) -> int:
    """`levelhead cache`."""
    parser = Parser(
        prog="levelhead cache",
        description="What levelhead keeps for later runs (decoded images, features, weights), and "
        "where. All of it can be made again.",
    )
    parser.add_argument("--empty", action="store_true", help="delete it")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.files import cache_folder, cached, empty_cache

    kinds = cached()
    total = sum(size for _, size in kinds.values())
    freed = empty_cache() if options.empty else 0
    if options.json:
        sizes = {kind: {"files": n, "bytes": size} for kind, (n, size) in kinds.items()}
        print_json({"folder": str(cache_folder()), "kinds": sizes, "freed": freed})
        return 0
    for kind, (n, size) in kinds.items():
        print(f"{kind:<10} {n:>6,} files  {size / 1e6:>10,.1f} MB")
    print(
        f"{total / 1e6:,.1f} MB in {cache_folder()}"
        + (f"; {freed / 1e6:,.1f} MB freed" if options.empty else "; --empty deletes it")
    )
    return 0


def models(words: list[str]) -> int:
    """`levelhead models`."""
    parser = Parser(prog="levelhead models", description="The networks that --model knows.")
    add_json(parser)
    options = parser.parse(words)

    from levelhead.models import MODELS

    if options.json:
        print_json({"models": list(MODELS)})
        return 0
    for name, entry in MODELS.items():
        words_ = (entry.build.__doc__ or "").splitlines()[0]
        print(f"{name:<14} {words_}")
    print("timm:NAME, torchvision:NAME: any network of those libraries")
    print("levelhead describe NAME: its layers, parameters, shapes, and what its units see")
    return 0

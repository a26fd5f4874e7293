"""The commands of translation: train-translator, translate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from levelhead.cli.common import add_device, add_json, add_out, add_quiet, print_json
from levelhead.cli.flags import Parser, add_recipe, settings_of
from levelhead.errors import LevelheadError

if TYPE_CHECKING:
    from levelhead.translation.translation_run import TranslationRun


def train_translator(words: list[str]) -> int:
    """`levelhead train-translator`."""
    from levelhead.translation.translation_recipe import TranslationRecipe

    parser = Parser(
        prog="levelhead train-translator",
        usage="levelhead train-translator DATA --source en --target de [flags]",
        description="Train a Transformer on parallel text, judge its tokens and its text: DATA "
        "becomes a run.",
    )
    add_recipe(parser, TranslationRecipe)
    add_out(parser, "run folder to make (default: the next runs/NAME-N)")
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)
    recipe = settings_of(options, TranslationRecipe)

    from levelhead.cli.terminal import watcher
    from levelhead.translation.train_translator import train_translator

    watch = watcher(quiet=options.quiet, unit="tokens")
    return deliver_translator(train_translator(recipe, options.out, watch=watch), options.json)


def deliver_translator(run: TranslationRun, as_json: bool) -> int:
    """The page of a run where it has none, and what it found."""
    from levelhead.translation.translation_page import write_translation_page

    if not (run.folder / "report.html").exists():
        write_translation_page(run)
    if as_json:
        print_json(run.findings | {"run": str(run.folder)})
    else:
        lines = [*run.words, "", f"Report: {run.folder / 'report.html'}"]
        lines.append(f"Next: levelhead translate {run.folder} < LINES")
        print("\n".join(lines))
    return 0


def translate(words: list[str]) -> int:
    """`levelhead translate`."""
    parser = Parser(
        prog="levelhead translate",
        usage="levelhead translate RUN [FILE] [flags]",
        description="Translate lines of standard input, or of a file.",
    )
    parser.add_argument("run", metavar="RUN", help="a run of levelhead train-translator")
    parser.add_argument("file", nargs="?", metavar="FILE", help="text (default: standard input)")
    parser.add_argument(
        "--alternatives",
        type=int,
        default=1,
        metavar="N",
        help="show so many answers a line, with the probability of each (default: 1)",
    )
    parser.add_argument("--beam", type=int, metavar="N", help="hypotheses (default: the run's)")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="divide logits in search (default: 1)"
    )
    parser.add_argument(
        "--mark-below",
        type=float,
        metavar="P",
        help="put words in ⟨ ⟩ whose calibrated probability is lower, for example 0.5",
    )
    add_device(parser)
    add_out(parser, "text file to write, a line a line")
    add_json(parser)
    add_quiet(parser)
    options = parser.parse(words)
    if options.mark_below is not None and not 0 <= options.mark_below <= 1:
        raise LevelheadError(f"--mark-below {options.mark_below:g}: must be from 0 to 1")

    from levelhead.files import reading
    from levelhead.translation.corpus import read_lines
    from levelhead.translation.translate import translate as translate_lines
    from levelhead.translation.translation_run import open_translation

    run = open_translation(options.run)
    if options.file in (None, "-"):
        lines = read_lines(sys.stdin.buffer.read(), "standard input")
    else:
        with reading(options.file, "check the path"):
            lines = read_lines(Path(options.file).read_bytes(), options.file)

    from levelhead.cli.terminal import counter

    translated = translate_lines(
        run,
        lines,
        alternatives=options.alternatives,
        beam=options.beam,
        temperature=options.temperature,
        device=options.device,
        progress=counter("translating", quiet=options.quiet),
    )
    if options.out is not None:
        translated.save(options.out, options.mark_below)
    if options.json:
        print_json(translated.to_json())
    elif options.alternatives > 1:
        for line, answers in zip(translated.lines, translated.answers, strict=True):
            print(line)
            for one in answers:
                text = one.text if options.mark_below is None else one.marked(options.mark_below)
                share = "<0.1" if one.probability < 5e-4 else f"{100 * one.probability:.1f}"
                print(f"  {share:>5} %  {text}")
    elif options.out is None:
        print("\n".join(translated.texts(options.mark_below)))
    return 0

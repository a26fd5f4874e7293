"""Command-line flags from a recipe's fields: name, type, default and help are written there."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import types
import typing
from typing import Any, NoReturn, TypeVar

from levelhead.errors import LevelheadError, nearest
from levelhead.recipe import Recipe, Settings

R = TypeVar("R", bound=Settings)
SECTIONS = {
    "classes": "data and splits",
    "source": "data and splits",
    "preset": "model",
    "beam": "run",
    "model": "model",
    "loss": "loss, targets and teacher",
    "optimizer": "optimisation",
    "crop": "augmentation and views",
    "save_every": "run",
}
"""Where a section of flags begins in --help, by the first field of it."""
MOST_USED = (
    *("model", "smoothing", "epochs", "batch_size", "lr", "image_size", "validation"),
    *("pretrained", "finetune", "seed"),
    *("source", "target", "preset", "updates"),
)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are LevelheadErrors: one line, with the nearest flag."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> NoReturn:
        raise LevelheadError(f"{message}; {self.prog} --help lists every flag")

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Parse, or raise LevelheadError."""
        options, unknown = self.parse_known_args(words)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            flag = unknown[0].partition("=")[0]
            fix = nearest(flag, known) if flag.startswith("-") else "quote names with spaces"
            if fix.startswith("choose"):
                fix = f"{self.prog} --help lists every flag"
            raise LevelheadError(f"{unknown[0]}: not understood; {fix}")
        return options


def explanations(kind: type[Settings] = Recipe) -> dict[str, str]:
    """The sentence under each field of a recipe."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def add_recipe(parser: Parser, recipe: type[Settings] = Recipe, *, many: bool = False) -> None:
    """One flag a field, `data` as the first word. With `many` each flag but seeds takes a list."""
    hints = typing.get_type_hints(recipe)
    help_ = explanations(recipe)
    first = parser.add_argument_group("most used")
    group = first
    for field in dataclasses.fields(recipe):
        if field.name == "task":  # the command says it
            continue
        if field.name in SECTIONS:
            group = parser.add_argument_group(SECTIONS[field.name])
        text = help_[field.name].replace("%", "%%")
        if field.name == "data":
            parser.add_argument("data", metavar="DATA", help=text)
            continue
        if field.default is not None and field.default not in ((), False):
            shown = field.default
            text += (
                f" (default: {' '.join(map(str, shown)) if isinstance(shown, tuple) else shown})"
            )
        elif field.default is None and "default" not in text:
            text += " (default: chosen for model and data)"
        flag = "--" + field.name.replace("_", "-")
        kind, options = _kind(hints[field.name])
        # argparse.SUPPRESS: a flag that was not given leaves Recipe's own default.
        common: dict[str, Any] = {"help": text, "default": argparse.SUPPRESS}
        if kind is bool:
            place = first if field.name in MOST_USED else group
            place.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
            continue
        common |= {"type": _named(kind), "metavar": options.get("metavar")}
        if "choices" in options:
            common["choices"] = options["choices"]
        if options.get("several") or (many and field.name not in ("seed", "split_seed")):
            common["nargs"] = "+"
        place = first if field.name in MOST_USED else group
        place.add_argument(flag, **common)


def recipe_fields(options: argparse.Namespace, recipe: type[Settings] = Recipe) -> dict[str, Any]:
    """Those of the parsed flags that are fields of a recipe."""
    names = {field.name for field in dataclasses.fields(recipe)}
    return {name: value for name, value in vars(options).items() if name in names}


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that was typed."""
    return settings_of(options, Recipe)


def settings_of(options: argparse.Namespace, kind: type[R]) -> R:
    """The same of any kind of recipe."""
    fields = recipe_fields(options, kind)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return kind(**fields)


def grid_of(options: argparse.Namespace) -> tuple[Recipe, dict[str, tuple[Any, ...]]]:
    """The recipe of the first values, and the fields that were given more than one."""
    given, hints = recipe_fields(options), typing.get_type_hints(Recipe)
    grid = {}
    for name, values in given.items():
        if typing.get_origin(hints[name]) is tuple:
            given[name] = tuple(values)
        elif isinstance(values, list):
            if len(set(values)) < len(values):
                flag = "--" + name.replace("_", "-")
                raise LevelheadError(f"{flag} {' '.join(map(str, values))}: a value occurs twice")
            given[name] = values[0]
            if len(values) > 1:
                grid[name] = tuple(values)
    recipe = Recipe(**given)
    for name, values in grid.items():
        for value in values:
            recipe.replace(**{name: value})  # each value must be possible before any is trained
    return recipe, grid


_METAVARS = {int: "N", float: "X", str: "NAME"}


def _kind(hint: Any) -> tuple[type, dict[str, Any]]:
    """The type of one value, and what argparse needs to know besides."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _kind(next(part for part in inside if part is not type(None)))
    if origin is typing.Literal:
        return str, {"choices": inside}
    if origin is tuple:
        return inside[0], {"several": True, "metavar": _METAVARS[inside[0]]}
    return hint, {"metavar": _METAVARS.get(hint)}


def _named(kind: type) -> Any:
    """A converter whose complaint says what was wanted."""
    kinds = {int: "a whole number, for example 1", float: "a number, for example 0.1"}

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kinds[kind]}") from None

    return convert

"""labels.csv: a table with the columns path and label, and if wanted group and split."""

from __future__ import annotations

import csv
from pathlib import Path

from levelhead.data.entries import SPLIT_NAMES, Entries, Listing, some
from levelhead.data.layouts.folder import Files
from levelhead.data.listing import finish
from levelhead.errors import LevelheadError

WORDS = "labels.csv: columns path (from the table's folder), label, and if wanted group and split"


def _table(path: Path) -> Path:
    return path / "labels.csv" if path.is_dir() else path


def here(path: Path) -> bool:
    """Whether this is a .csv file, or a folder with a labels.csv."""
    table = _table(path)
    return table.suffix.lower() == ".csv" and table.is_file()


def read(path: Path, group_column: str) -> Listing:
    """List the images that the table names; ids are its paths, as written.

    Raises LevelheadError naming the line of an image that is missing or occurs twice, of an
    empty label or group, of an unknown split.
    """
    table = _table(path)
    rows: dict[str, list[tuple[str, str, str]]] = {}  # split -> (path, label, group)
    lines: dict[str, int] = {}
    grouped = False
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            comma = "," in file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter="," if comma else ";")
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            grouped = group_column in columns
            needed = ["path", "label", *([group_column] if grouped else [])]
            if not set(needed) <= set(columns):
                raise LevelheadError(
                    f"{table}: the first line must name the columns path and label; it names "
                    f"{some(columns, 8) or 'nothing'}"
                )
            for row in reader:
                cells = {name: (row[name] or "").strip() for name in columns}
                if not any(cells.values()):
                    continue
                where, image = f"{table}: line {reader.line_num}", cells["path"]
                for name in needed:
                    if not cells[name]:
                        raise LevelheadError(f"{where}: no {name}; fill it in")
                if image in lines:
                    raise LevelheadError(
                        f"{where}: {image} stands already in line {lines[image]}; keep one"
                    )
                if not (table.parent / image).is_file():
                    raise LevelheadError(
                        f"{where}: {image} is no file in {table.parent}; "
                        "correct the path or remove the line"
                    )
                lines[image] = reader.line_num
                split = SPLIT_NAMES.get((cells.get("split") or "train").lower())
                if split is None:
                    raise LevelheadError(
                        f"{where}: unknown split {cells['split']!r}; "
                        "write train, validation or test"
                    )
                group = cells[group_column] if grouped else ""
                rows.setdefault(split, []).append((image, cells["label"], group))
    except (csv.Error, UnicodeDecodeError) as error:
        raise LevelheadError(f"{table}: not a CSV table in UTF-8 ({error})") from None
    splits = {}
    for split, part in rows.items():
        ids, labels, groups = zip(*part, strict=True)
        files = Files(tuple(table.parent / image for image in ids))
        splits[split] = Entries(ids, labels, groups if grouped else None, read=files)
    return finish(str(path), path.name if path.is_dir() else path.stem, splits)

"""`levelhead check`: what is in a data set, and what is wrong with it, before any training."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from levelhead.data import scan
from levelhead.data.cache import on_all_cores
from levelhead.data.decode import Broken, digest, header, pixels, reason
from levelhead.data.entries import Dataset, Entries, Examples, Listing
from levelhead.data.load import refuse_lost_classes
from levelhead.data.splits import split as complete
from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe
from levelhead.text import count, isolated, some

Seen = tuple[str, int, int, int] | str  # (mode, width, height, digest), or why not


def check(
    data: str,
    *,
    label_column: str = "",
    group_column: str = "group",
    outside_paths: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read every image of a source at full size and report what stands out.

    The dict is fit for JSON: counts per split and class, sizes, modes, unreadable images,
    copies (images with the same decoded pixels) within and across splits, the same image
    under two labels, groups, notes; `refusal`, why `levelhead train` would not take it (as far as
    the images go, with --skip-broken), or None. Raises LevelheadError where `scan` does.
    """
    listing = scan(
        data,
        label_column=label_column,
        group_column=group_column,
        outside_paths=outside_paths,
    )
    names = listing.class_names
    total = sum(map(len, listing.splits.values()))
    by_digest: dict[int, list[dict[str, str]]] = defaultdict(list)
    modes: Counter[str] = Counter()
    widths, heights = [], []
    unreadable: list[dict[str, str]] = []
    splits: dict[str, Any] = {}
    digests: dict[str, dict[int, int]] = defaultdict(dict)  # by split, of the images by place
    done = 0
    for split, entries in listing.splits.items():

        def tell(part: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + part, total)

        for i, found in enumerate(_look(entries, listing.bits, tell)):
            if isinstance(found, str):
                unreadable.append({"split": split, "id": entries.ids[i], "why": found})
                continue
            mode, width, height, key = found
            modes[mode] += 1
            digests[split][i] = key
            widths.append(width)
            heights.append(height)
            label = names[int(entries.labels[i])]
            by_digest[key].append({"split": split, "id": entries.ids[i], "label": label})
        counts = np.bincount(entries.labels, minlength=len(names)).tolist()
        splits[split] = {"n": len(entries), "counts": dict(zip(names, counts, strict=True))}
        done += len(entries)
    copies = [same for same in by_digest.values() if len(same) > 1]
    pairs = [pair for same in copies for pair in _pairs(same)]
    return {
        "schema": 1,
        "name": listing.name,
        "source": listing.source,
        "class_names": list(names),
        "splits": splits,
        "sizes": {"width": _spread(widths), "height": _spread(heights)},
        "modes": dict(modes.most_common()),
        "unreadable": unreadable,
        "duplicates": {
            "within": [[a, b] for a, b in pairs if a["split"] == b["split"]],
            "across": [[a, b] for a, b in pairs if a["split"] != b["split"]],
        },
        "contradictions": [same for same in copies if len({x["label"] for x in same}) > 1],
        "groups": _groups(listing.splits),
        "roles": list(listing.roles),
        "channels": listing.channels,
        "bits": listing.bits,
        "notes": list(listing.notes),
        "refusal": _refusal(listing, digests),
    }


def _refusal(listing: Listing, digests: Mapping[str, Mapping[int, int]]) -> str | None:
    """Why the images that can be read cannot be split for training, or None."""
    parts = {}
    for split, entries in listing.splits.items():
        readable = np.array(sorted(digests[split]), dtype=np.int64)
        parts[split] = Examples(
            np.zeros((len(readable), 1, 1, 1), np.uint8),
            entries.labels[readable],
            tuple(entries.ids[i] for i in readable),
            np.array([digests[split][i] for i in readable], dtype=np.uint64),
            None if entries.groups is None else tuple(entries.groups[i] for i in readable),
        )
    usual = Recipe(listing.source)
    try:
        refuse_lost_classes(listing, parts)
        complete(
            Dataset(listing, listing.class_names, parts, ""),
            validation=usual.validation,
            test=usual.test,
            seed=usual.split_seed,
        )
    except LevelheadError as error:
        return str(error).removeprefix(f"{listing.source}: ")
    return None


def _look(entries: Entries, bits: int, progress: Callable[[int, int], None]) -> list[Seen]:
    """Mode, size and digest of every image, or why it cannot be read."""
    images, read = entries.images, entries.read

    def work(i: int) -> Seen:
        if images is not None:
            height, width, channels = images.shape[1:]
            return "L" if channels == 1 else "RGB", width, height, digest(images[i])
        assert read is not None
        try:
            data = read(i)
            return *header(io.BytesIO(data)), digest(pixels(data, bits))
        except (Broken, OSError) as error:
            return reason(error)

    return on_all_cores(work, len(entries), progress)


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _pairs(same: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Each copy with the first of its split, and the first ones of the splits with each other."""
    first: dict[str, dict[str, str]] = {}
    pairs = []
    for one in same:
        if one["split"] in first:
            pairs.append([first[one["split"]], one])
        else:
            pairs += [[other, one] for other in first.values()]
            first[one["split"]] = one
    return pairs


def _groups(splits: dict[str, Entries]) -> dict[str, Any] | None:
    sizes = Counter(group for entries in splits.values() for group in entries.groups or ())
    if not sizes:
        return None
    where = Counter(group for entries in splits.values() for group in set(entries.groups or ()))
    name, largest = sizes.most_common(1)[0]
    across = sorted(group for group, times in where.items() if times > 1)
    return {"n": len(sizes), "largest": {"name": name, "n": largest}, "across": across}


def words(findings: dict[str, Any]) -> list[str]:
    """The findings of `check` as sentences."""
    splits, names = findings["splits"], findings["class_names"]
    counts = ", ".join(f"{name} {part['n']:,}" for name, part in splits.items())
    total = count(sum(part["n"] for part in splits.values()), "image")
    lines = [f"{findings['name']}: {total} of {count(len(names), 'class')} ({counts})."]
    lines += findings["roles"]
    train = splits["train"]["counts"]
    small, large = min(train, key=train.get), max(train, key=train.get)
    if train[small] == train[large]:
        lines.append(f"In train each class has {count(train[small], 'image')}.")
    else:
        lines.append(
            f"In train a class has {train[small]:,} ({isolated(small)}) to {train[large]:,} "
            f"({isolated(large)})."
        )
    if train[large] >= 3 * train[small]:
        lines.append("They are unbalanced: look at each class's recall, not at accuracy alone.")
    if findings["modes"]:
        sizes = " and ".join(
            f"{side}s from {s['min']} to {s['max']} (median {s['median']:g})"
            for side, s in findings["sizes"].items()
        )
        modes = ", ".join(f"{mode} {n:,}" for mode, n in findings["modes"].items())
        lines.append(f"They have {sizes} pixels; modes: {modes}.")
    broken = [f"{x['id']} ({x['why']})" for x in findings["unreadable"]]
    lines.append(
        f"{count(len(broken), 'image')} cannot be read: {some(broken)}. Fix or remove such "
        "images, or train with --skip-broken."
        if broken
        else "All images can be read."
    )
    for where, what, fix in (
        ("within", "within a split", "They count double, and are never parted by levelhead."),
        ("across", "across splits", "They flatter the test: remove them; --strict-splits refuses."),
    ):
        pairs = [f"{a['id']} = {b['id']}" for a, b in findings["duplicates"][where]]
        if pairs:
            lines.append(f"{count(len(pairs), 'exact duplicate')} {what}: {some(pairs)}. {fix}")
    if not any(findings["duplicates"].values()):
        lines.append("No image stands there twice.")
    wrong = [
        " = ".join(f"{x['id']} ({x['label']})" for x in same) for same in findings["contradictions"]
    ]
    if wrong:
        lines.append(
            f"Under two labels: {count(len(wrong), 'image')}: {'; '.join(wrong[:10])}. "
            "Correct one of the labels."
        )
    if (groups := findings["groups"]) is not None:
        largest = f"{groups['largest']['name']}, {count(groups['largest']['n'], 'image')}"
        lines.append(f"{count(groups['n'], 'group')} (largest: {largest}), which are kept whole.")
        if groups["across"]:
            lines.append(f"Groups in several splits: {some(groups['across'])}. Move each into one.")
    lines += findings["notes"]
    if findings["refusal"] is not None:
        lines.append(f"levelhead train would refuse it: {findings['refusal']}.")
    return lines

"""Students of smoothed teachers at equal smoothness (Müller et al. 2019, section 5, figure 5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from levelhead.errors import LevelheadError
from levelhead.files import read_json
from levelhead.metrics import METRICS
from levelhead.recipe import Recipe
from levelhead.runs import Run
from levelhead.statistics.examples import wilson
from levelhead.statistics.measured import NO_SEED, Estimate, combination, mean, verdict
from levelhead.studies.understood import SCHEMA, Understood
from levelhead.text import interval_text
from levelhead.training.distillation import teacher_folder

SPLITS = ("test", "validation")
# Fields in which the runs of one network may differ: what a point of a curve says, and what
# changes nothing about it.
REMEDIES: dict[str, Any] = {"beta": 1.0, "match": "probabilities", "teacher_norm": None}
SHOWN = {"smoothing", "teacher", "temperature", "student_temperature", *REMEDIES}
# A protocol may need its own learning rate: T² in the loss makes steeper steps.
VARIED = {"seed", "device", "save_every", "lr"} | SHOWN
MUELLER = "student at 1 (Müller)"
METHOD = (
    "accuracy: s²/S over seeds plus Wilson's variance over examples, Student's t (Welch and "
    "Satterthwaite); differences are paired by example and by the seeds that both have; each "
    "interval stands for itself, however many there are"
)


ACCURACY = METRICS["accuracy"].quantity


@dataclass(frozen=True)
class Setting:
    """What a point of a curve was trained with; `epsilon` is the teacher's if there is one."""

    kind: str  # teachers; plain: students on labels; students: of a teacher
    epsilon: float
    temperature: float = 1.0
    student_temperature: float = 1.0
    more: tuple[tuple[str, Any], ...] = ()  # what stands apart from REMEDIES

    @property
    def protocol(self) -> str | None:
        """Whose temperature the student has; None where all are 1, which belongs to each."""
        if self.temperature == self.student_temperature == 1:
            return None
        if self.student_temperature == 1:
            return MUELLER
        own = self.student_temperature == self.temperature  # Hinton et al.
        return "student at T (Hinton)" if own else f"student at {self.student_temperature:g}"


@dataclass(frozen=True, eq=False)
class _Member:
    """A run of a setting."""

    run: Run
    teacher: Path | None
    gamma: float
    accuracy: dict[str, Estimate]  # by split


# The members of a setting by their own seed and their teacher's.
Group = Mapping[tuple[int, int], _Member]


def distillation_curves(runs: Sequence[Run], level: float = 0.95) -> Understood:
    """Accuracy by smoothness index γ: teachers, students without one, and with one; over seeds.

    `runs` are finished teachers, students on labels and distilled students, in any order; a
    student's teacher is found where its recipe says. γ is the mean over seeds of what a student
    was given (distillation.json), and for networks without a teacher their ε (in the convention
    `uniform`). Students of a smoothed teacher are held against those of the hard teacher (with
    the same remedy, if there are any) at equal γ, interpolated linearly between two temperatures
    of the same protocol (never beyond them), and at equal temperature.

    A difference is a weighted sum of up to three settings' accuracies, paired by example and by
    the seeds (the student's and the teacher's) that all of them have (`measured.combination`). γ
    counts as known. Several seeds of one teacher say nothing about other teachers, which the words
    mind.

    Raises LevelheadError for runs judged on other images, of more than one teacher or student
    network, for a teacher that is gone or was taught itself, and without a distilled student.
    """
    groups, teachers, students = _groups(runs, level)
    some = next(iter(next(iter(groups.values())).values()))
    points = {setting: _point(setting, group, level) for setting, group in groups.items()}
    curves = [
        {
            "name": _name(kind, protocol, more),
            "kind": kind,
            "protocol": protocol,
            **dict(more),
            "points": [points[s] for s in settings],
        }
        for kind, protocol, more, settings in _curves(points)
    ]
    gained = [
        _point_of(points[s]) | _differ([(1, group), (-1, groups[hard])], level)
        for s, group in _by_epsilon(groups, "teachers")
        if s.epsilon and (hard := dataclasses.replace(s, epsilon=0.0)) in groups
    ]
    comparisons = list(_comparisons(groups, points, level))
    findings = {
        "schema": SCHEMA,
        "teacher": teachers.model,
        "student": students.model,
        "n": {split: len(some.accuracy[split].influence[0]) for split in SPLITS},
        "interval": {"level": level, "method": METHOD},
        "curves": curves,
        "teachers_gain": gained,
        "comparisons": comparisons,
        "words": _words(gained, comparisons, groups),
    }
    return Understood(findings, {curve["name"]: curve for curve in curves})


def _groups(
    runs: Sequence[Run], level: float
) -> tuple[dict[Setting, dict[tuple[int, int], _Member]], Recipe, Recipe]:
    """The runs by setting, and a recipe of the teachers and one of the students."""
    by_folder = {run.folder.resolve(): run for run in runs}
    taught = {place: run for place, run in by_folder.items() if run.recipe.teacher is not None}
    if not taught:
        raise LevelheadError("no run has a teacher; give some that levelhead distill made")
    named = {place: _teacher_of(run) for place, run in taught.items()}
    teachers = _alike([(run, run.recipe) for run in named.values()], "teachers")
    students = _alike([(run, run.recipe) for run in taught.values()], "students")
    # A teacher that was not given counts too, unless all that is left of it is its recipe.
    networks = {run.folder.resolve(): run for run in named.values() if run.finished} | by_folder
    groups: dict[Setting, dict[tuple[int, int], _Member]] = {}
    first = next(iter(networks.values()))
    for place, run in networks.items():
        recipe, data, teacher = run.recipe, run.data, named.get(place)
        if any(data["hashes"][split] != first.data["hashes"][split] for split in SPLITS):
            raise LevelheadError(
                f"{run.folder}: is judged on other images than {first.folder}; give runs of the "
                "same data, --split-seed and shares"
            )
        if teacher is not None:
            settings = [_taught(recipe, teacher.recipe)]
            gamma = read_json(run.folder / "distillation.json")["smoothness_index"]
        else:
            kinds = {"teachers": _apart(recipe, teachers), "plain": _apart(recipe, students)}
            settings = [Setting(kind, recipe.smoothing) for kind in kinds if not kinds[kind]]
            if not settings:
                fields = min(kinds.values(), key=len)
                raise LevelheadError(
                    f"{run.folder}: is like neither the teachers nor the students: another "
                    f"{', '.join(fields)}; leave it out"
                )
            classes = len(data["class_names"])
            others = recipe.convention == "others"
            gamma = recipe.smoothing * (classes / (classes - 1) if others else 1)
        seeds = recipe.seed, -1 if teacher is None else teacher.recipe.seed
        where = None if teacher is None else teacher.folder.resolve()
        accuracy = {split: _accuracy(run.outputs(split).rows.correct, level) for split in SPLITS}
        for setting in settings:
            group = groups.setdefault(setting, {})
            if seeds in group:
                raise LevelheadError(
                    f"{run.folder}: has the setting and seed of {group[seeds].run.folder}, too; "
                    "give one of them"
                )
            group[seeds] = _Member(run, where, gamma, accuracy)
    return groups, teachers, students


def _taught(recipe: Recipe, teacher: Recipe) -> Setting:
    """The setting of a student."""
    values = {name: getattr(recipe, name, plain) for name, plain in REMEDIES.items()}
    more = tuple((name, value) for name, value in values.items() if value != REMEDIES[name])
    if recipe.beta < 1 and recipe.smoothing:  # else its labels count for nothing
        more += (("smoothing", recipe.smoothing),)
    temperatures = recipe.temperature, recipe.student_temperature
    return Setting("students", teacher.smoothing, *temperatures, more)


def _teacher_of(run: Run) -> Run:
    """The run that taught this one, for its recipe."""
    teacher = Run(teacher_folder(str(run.recipe.teacher)))
    if not (teacher.folder / "recipe.toml").exists():
        raise LevelheadError(
            f"{run.folder}: its teacher {teacher.folder} is no run folder, or gone; put it back: "
            "its smoothing is read from its recipe.toml"
        )
    if teacher.recipe.teacher is not None:
        raise LevelheadError(
            f"{run.folder}: its teacher {teacher.folder} was taught itself; leave it out"
        )
    return teacher


def _alike(recipes: Sequence[tuple[Run, Recipe]], what: str) -> Recipe:
    """The first recipe. Raises LevelheadError if another differs in what no curve shows."""
    (first, like), *others = recipes
    for run, recipe in others:
        if fields := _apart(recipe, like):
            fields_text = ", ".join(
                f"{n} {getattr(recipe, n)}, not {getattr(like, n)}" for n in fields
            )
            raise LevelheadError(
                f"{what} differ: {run.folder} has {fields_text} as {first.folder}; "
                "give those of one"
            )
    return like


def _apart(one: Recipe, other: Recipe) -> list[str]:
    names = [field.name for field in dataclasses.fields(Recipe) if field.name not in VARIED]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def _by_epsilon(groups: Mapping[Setting, Any], kind: str) -> list[tuple[Setting, Any]]:
    return sorted(((s, g) for s, g in groups.items() if s.kind == kind), key=lambda p: p[0].epsilon)


def _curves(
    points: Mapping[Setting, Mapping[str, Any]],
) -> Iterator[tuple[str, str | None, tuple[tuple[str, Any], ...], list[Setting]]]:
    """Kind, protocol, remedies and settings of each curve, in the order of the paper's legend."""
    for kind in ("teachers", "plain"):
        if some := [setting for setting, _ in _by_epsilon(points, kind)]:
            yield kind, None, (), some
    students = [setting for setting in points if setting.kind == "students"]
    for more in sorted({s.more for s in students}, key=str):
        mine = sorted(
            (s for s in students if s.more == more), key=lambda s: (s.epsilon, points[s]["gamma"])
        )
        hard = [s for s in mine if not s.epsilon]
        protocols: list[str | None] = [*sorted({s.protocol for s in hard if s.protocol})]
        for protocol in protocols or ([None] if hard else []):
            yield "hard", protocol, more, [s for s in hard if s.protocol in (None, protocol)]
        if any(s.epsilon and s.protocol is None for s in mine):
            yield "smoothed", None, more, [s for s in mine if s.protocol is None]
        for own in sorted({s.protocol for s in mine if s.epsilon and s.protocol}):
            some = [s for s in mine if s.epsilon and s.protocol == own]
            yield "softened", own, more, some


NAMES = {
    "teachers": "teachers, trained with smoothing ε",
    "plain": "students without a teacher, smoothing ε",
    "hard": "students of the hard teacher, temperature T",
    "smoothed": "students of teachers with smoothing ε, T = 1",
    "softened": "students of teachers with smoothing ε, other T",
}


def _name(kind: str, protocol: str | None, more: tuple[tuple[str, Any], ...]) -> str:
    words = [f"{name.replace('_', ' ')} {value}" for name, value in more]
    return ", ".join([NAMES[kind], *filter(None, [protocol]), *words])


def _point(setting: Setting, group: Group, level: float) -> dict[str, Any]:
    """A setting in numbers: mean γ, and mean accuracy with its interval on both splits."""
    members = list(group.values())
    means = {split: _mean(group, split, level) for split in SPLITS}
    taught = setting.kind == "students"
    return {
        "gamma": fmean(member.gamma for member in members),
        "epsilon": setting.epsilon,
        "temperature": setting.temperature if taught else None,
        "student_temperature": setting.student_temperature if taught else None,
        "n_seeds": len(members),
        **means["test"],
        "validation": means["validation"],
        "runs": [str(member.run.folder) for member in members],
    }


def _accuracy(correct: Tensor, level: float) -> Estimate:
    """The accuracy of one run from its answers [N], with Wilson's interval."""
    ends = wilson(float(correct.sum()), len(correct), level)
    return Estimate(float(correct.mean()), *ends, (correct,))


def _mean(group: Group, split: str, level: float) -> dict[str, Any]:
    """Mean accuracy over the seeds of a group, for JSON."""
    estimates = {seeds: member.accuracy[split] for seeds, member in group.items()}
    return mean(estimates, ACCURACY, level).to_json()


def _comparisons(
    groups: Mapping[Setting, Group], points: Mapping[Setting, Mapping[str, Any]], level: float
) -> Iterator[dict[str, Any]]:
    """Students of each smoothed teacher against the hard teacher's, at equal γ and equal T."""
    hard = [s for s in points if s.kind == "students" and not s.epsilon]
    hard.sort(key=lambda s: float(points[s]["gamma"]))
    for kind, protocol, more, settings in _curves(points):
        if kind not in ("smoothed", "softened"):
            continue
        without = tuple(pair for pair in more if pair[0] not in ("match", "teacher_norm"))
        more_there = more if any(s.more == more for s in hard) else without
        there = [s for s in hard if s.more == more_there]
        # At T = 1 both protocols are one, and Müller's goes on from there if it was run.
        ways = sorted({s.protocol for s in there if s.protocol}, key=lambda p: (p != MUELLER, p))
        hard_protocol = protocol or next(iter(ways), None)
        line = [s for s in there if s.protocol in (None, hard_protocol)]
        gammas = [points[s]["gamma"] for s in line]
        for setting in (s for s in settings if s.epsilon):
            point = {"curve": _name(kind, protocol, more), **_point_of(points[setting])}
            point["against"] = _name("hard", hard_protocol, more_there)
            mine = (1.0, groups[setting])
            if around := _around(points[setting]["gamma"], gammas):
                parts = [(-weight, groups[line[i]]) for i, weight in around]
                between = {"between": [line[i].temperature for i, _ in around]}
                yield {"at": "gamma"} | point | between | _differ([mine, *parts], level)
            else:
                why = "the hard teacher taught none in this way"
                if gammas:
                    why = f"the hard teacher's students have {gammas[0]:.3g} to {gammas[-1]:.3g}"
                unknown = dict.fromkeys(("value", "low", "high"))
                yield {"at": "gamma"} | point | unknown | {"verdict": "out of range", "reason": why}
            same = dataclasses.replace(setting, epsilon=0.0, more=more_there)
            if same in groups:
                parts = [mine, (-1.0, groups[same])]
                yield {"at": "temperature"} | point | _differ(parts, level)


def _around(x: float, grid: Sequence[float]) -> list[tuple[int, float]]:
    """Places in a rising grid and the weights that interpolate at x; none beyond its ends."""
    for i, here in enumerate(grid):
        if math.isclose(here, x, rel_tol=1e-9):  # means over seeds, added up in another order
            return [(i, 1.0)]
        if i and grid[i - 1] < x < here:
            weight = (x - grid[i - 1]) / (here - grid[i - 1])
            return [(i - 1, 1 - weight), (i, weight)]
    return []


def _differ(parts: Sequence[tuple[float, Group]], level: float) -> dict[str, Any]:
    """Σ w · accuracy on test and on validation, with intervals (see `distillation_curves`)."""
    by_split: dict[str, dict[str, Any]] = {}
    shared: tuple[Any, ...] = ()
    for split in SPLITS:
        terms = [
            (weight, {seeds: member.accuracy[split] for seeds, member in group.items()})
            for weight, group in parts
        ]
        interval, _, shared = combination(terms, ACCURACY, level)
        if interval is None:
            numbers = dict.fromkeys(("value", "low", "high"))
            by_split[split] = {**numbers, "verdict": "cannot tell", "reason": NO_SEED}
            continue
        ends = (interval.mean, interval.low, interval.high)
        numbers = dict(zip(("value", "low", "high"), ends, strict=True))
        by_split[split] = {**numbers, "verdict": verdict(*ends, ACCURACY.direction)}
    return {
        **by_split["test"],
        "validation": by_split["validation"],
        "n_seeds": len(shared),
        "paired": bool(shared),
        "scope": "these models" if len(shared) == 1 else "these recipes",
    }


def _point_of(point: Mapping[str, Any]) -> dict[str, Any]:
    """Which point a difference is of."""
    return {k: point[k] for k in ("epsilon", "temperature", "student_temperature", "gamma")}


def _words(
    gained: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    groups: Mapping[Setting, Group],
) -> list[str]:
    lines, details = [], []
    for at in ("gamma", "temperature"):
        verdicts = [c["verdict"] for c in comparisons if c["at"] == at and c["value"] is not None]
        if verdicts:
            worse, better, open_ = map(verdicts.count, ("worse", "better", "cannot tell"))
            lines.append(
                f"At equal {at}, the smoothed teacher's students are worse than the hard "
                f"teacher's at {worse} of {len(verdicts)} points and better at {better}; cannot "
                f"tell at {open_}."
            )
        for curve in dict.fromkeys(c["curve"] for c in comparisons if c["at"] == at):
            mine = [c for c in comparisons if c["at"] == at and c["curve"] == curve]
            details.append(f"{curve[0].upper()}{curve[1:]}, at equal {at}: {_listed(mine)}.")
    if not lines:
        lines.append("No smoothed teacher's students can be held against the hard teacher's.")
    if gained:
        details.append(f"Teachers against the one with hard targets: {_listed(gained)}.")
    caveats = []
    if any(c.get("scope") == "these models" for c in (*comparisons, *gained)):
        caveats.append("one seed speaks for these models, not for the recipes")
    if any(
        len(g) > 1 and len({m.teacher for m in g.values()} - {None}) == 1 for g in groups.values()
    ):
        caveats.append(
            "students over several seeds share a teacher, and others may teach otherwise"
        )
    return lines + details + ([f"Mind: {'; '.join(caveats)}."] if caveats else [])


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    """`worse at ε 0.1, T 1 (-0.80 points [-1.20, -0.40]); …`, by verdict."""
    parts = []
    for word in ("worse", "better", "cannot tell", "out of range"):
        points = [_point_text(row) for row in rows if row["verdict"] == word]
        parts += [f"{word} at {'; '.join(points)}"] if points else []
    return "; ".join(parts)


def _point_text(row: Mapping[str, Any]) -> str:
    where = f"ε {row['epsilon']:g}"
    if row["temperature"] is not None:
        where += f", T {row['temperature']:g}"
    if row["value"] is None:
        return f"{where} (γ {row['gamma']:.3g}: {row['reason']})"
    ends = (row["value"], row["low"], row["high"])
    text = interval_text(*ends, digits=2, scale=100, sign=True, unit=ACCURACY.unit)
    return f"{where} ({text})"

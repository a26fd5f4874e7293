"""Policy: what to do with a prediction, and what that promises; the same wherever it is obeyed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levelhead.calibrators import Calibrator, calibrator_of
from levelhead.decisions import conformal, costs
from levelhead.decisions.conformal import Conformal
from levelhead.decisions.costs import Costs
from levelhead.decisions.plain import plain
from levelhead.decisions.scores import find_score, sharp
from levelhead.decisions.threshold import Threshold
from levelhead.decisions.unknown import Reference, Unknown
from levelhead.errors import LevelheadError
from levelhead.files import read_object, reading, write, write_json
from levelhead.outputs import Outputs
from levelhead.text import isolated

SCHEMA = 1
KINDS = ("class", "set", "ask", "none")
"""What an answer can be, in the order of their numbers."""
SPOKEN = {"set": "one of a set", "ask": "ask a person", "none": "none of mine"}
"""What stands for an answer that is no class."""
SET_ANEW = "set it anew: levelhead decide RUN"
DRIFT = (
    "All of this is for images drawn as those of validation were: another camera, place, season or "
    "share of the classes ends it, and so does any change of the model or of how images are read."
)


@dataclass(frozen=True, eq=False)
class Policy:
    """What to do with a prediction: calibrate, and answer with a class, a set, a person or none.

    1. None of mine, where `unknown` flags it.
    2. With `costs`, the choice that costs least by the calibrated probabilities; it may be to ask.
    3. Else the likeliest class, where the certainty `score` reaches its threshold: one for all
       classes, or one for each predicted class (`thresholds` has 1 or K); none: always.
    4. Else the set, where it holds several classes and leaves one out; else ask a person.

    `score` is of the calibrated outputs, a p-norm of the logits as they came.
    """

    class_names: tuple[str, ...]
    calibrator: Calibrator | None
    score: str
    thresholds: tuple[Threshold, ...]
    sets: Conformal | None
    costs: Costs | None
    unknown: Unknown | None
    level: float
    n_fit: int  # examples that chose and fitted the calibrator and the score
    n_set: int  # examples that set the thresholds and the sets
    calibrator_reason: str = ""
    note: str = ""  # what could not be had
    model: str = ""  # SHA-256 of the weights it was set for
    version: str = ""

    def answers(self, outputs: Outputs) -> Answers:
        """The answer to each example; labels are not looked at. Raises LevelheadError."""
        if outputs.class_names != self.class_names:
            raise LevelheadError(
                f"policy: for the classes {', '.join(map(isolated, self.class_names[:3]))}, …; "
                "these outputs have others"
            )
        ready = outputs if self.calibrator is None else self.calibrator.apply(outputs)
        certainty = find_score(self.score).of(outputs if self.score.startswith("pnorm") else ready)
        best, n = ready.predictions(), len(outputs)
        price: Tensor | None = None
        if self.costs is not None:
            cheapest = costs.decide(ready, self.costs)
            choice, price = cheapest.choice, cheapest.expected
        else:
            sure = (
                certainty >= self._limits()[best]
                if self.thresholds
                else torch.ones(n, dtype=torch.bool)
            )
            choice = torch.where(sure, best, -1)
        inside = sets_of(self.sets, ready) if self.sets is not None else None
        sizes = torch.ones(n) if inside is None else inside.sum(1)
        small = (sizes > 1) & (sizes < outputs.classes)  # one class is no set, but an answer
        kind = torch.where(choice >= 0, 0, torch.where(small, 1, 2))
        known = None
        if self.unknown is not None:
            known = self.unknown.of(outputs)
            kind[known < self.unknown.quantile] = 3
        choice = torch.where(kind == 0, choice, -1)
        probabilities = ready.probabilities() if ready.kind != "confidence" else None
        confidence = ready.rows.confidence
        return Answers(
            self, kind, choice, best, confidence, certainty, probabilities, inside, known, price
        )

    def _limits(self) -> Tensor:
        """Threshold of each predicted class, float64 [K]; NaN (none reaches it) where there is
        none."""
        values = [math.nan if t.value is None else t.value for t in self.thresholds]
        limits = torch.tensor(values, dtype=torch.float64)
        return limits.expand(len(self.class_names)) if len(values) == 1 else limits

    def without_unknown(self, why: str) -> Policy:
        """The same, but that it never says "none of mine"."""
        return replace(self, unknown=None, note=f"{self.note} {why}".strip())

    @property
    def promises(self) -> tuple[str, ...]:
        """What each part promises, on how many examples it rests, and when it stops holding."""
        lines = [self.answers_promise(), *([self.note] if self.note else [])]
        if self.sets is not None:
            lines.append(
                f"Sets: {self.sets.guarantee()} That is over all images; of those left open by the "
                "threshold they hold less often."
            )
        if self.unknown is not None:
            lines.append(self.unknown.promise())
        return (*lines, DRIFT)

    def answers_promise(self) -> str:
        """What the answers that name a class promise."""
        if self.costs is not None:
            return "Answers are those that cost least by the calibrated probabilities."
        if not self.thresholds:
            return "Every image that is not none of mine is answered, without a promise."
        if len(self.thresholds) == 1:
            (one,) = self.thresholds
            return f"Answers: {one.guarantee or f'none is given; {one.reason}'}".rstrip(".") + "."
        named = zip(self.class_names, self.thresholds, strict=True)
        parts = [
            f"{isolated(name)} at most {one.risk_wanted * 100:.4g} %"
            if one.value is not None
            else f"{isolated(name)} is never answered ({one.reason})"
            for name, one in named
        ]
        return (
            f"Answers, by class: with probability at least {self.level * 100:.4g} % over the draw "
            f"of these {self.n_set:,} examples, of all classes at once so many are wrong: "
            f"{'; '.join(parts)}."
        )

    def to_json(self) -> dict[str, Any]:
        """policy.json: plain values, and what they promise in words."""
        price = self.costs
        return {
            "schema": SCHEMA,
            "levelhead": self.version,
            "model": self.model,
            "class_names": list(self.class_names),
            "level": self.level,
            "n": {"fit": self.n_fit, "set": self.n_set},
            "calibrator": None if self.calibrator is None else self.calibrator.to_json(),
            "calibrator_reason": self.calibrator_reason,
            "score": self.score,
            "thresholds": [one.as_json() for one in self.thresholds],
            "sets": None if self.sets is None else self.sets.to_json(),
            "costs": None
            if price is None
            else {"matrix": plain(price.matrix), "abstain": plain(price.abstain)},
            "unknown": None if self.unknown is None else self.unknown.to_json(),
            "note": self.note,
            "promises": list(self.promises),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], reference: Reference | None = None) -> Policy:
        """Read what `to_json` gave. Raises LevelheadError for a newer schema or other content."""
        if content.get("schema") != SCHEMA:
            raise LevelheadError(
                f"policy of schema {content.get('schema')!r}, this version reads {SCHEMA}; "
                f"update levelhead, or {SET_ANEW}"
            )
        try:
            names = tuple(map(str, content["class_names"]))
            stored, sets, flag = content["costs"], content["sets"], content["unknown"]
            price = None
            if stored is not None:
                matrix = torch.tensor(stored["matrix"], dtype=torch.float64)
                extra = stored["abstain"]
                extra = None if extra is None else torch.tensor(extra, dtype=torch.float64)
                price = Costs(matrix, names, extra)
            calibrator = content["calibrator"]
            policy = cls(
                class_names=names,
                calibrator=None if calibrator is None else calibrator_of(calibrator),
                score=find_score(str(content["score"])).name,
                thresholds=tuple(map(Threshold.from_json, content["thresholds"])),
                sets=None if sets is None else Conformal.from_json(sets),
                costs=price,
                unknown=None if flag is None else Unknown.from_json(flag, reference),
                level=float(content["level"]),
                n_fit=int(content["n"]["fit"]),
                n_set=int(content["n"]["set"]),
                calibrator_reason=str(content["calibrator_reason"]),
                note=str(content["note"]),
                model=str(content["model"]),
                version=str(content["levelhead"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LevelheadError(f"no whole policy ({error}); {SET_ANEW}") from None
        k = len(names)
        sound = len(policy.thresholds) in (0, 1, k) and (
            price is None or price.matrix.shape == (k, k)
        )
        if not sound or (policy.sets is not None and policy.sets.classes != k):
            raise LevelheadError(f"no whole policy (not of {k} classes throughout); {SET_ANEW}")
        return policy

    def save(self, folder: str | Path) -> None:
        """Write policy.json, and policy.safetensors where "none of mine" measures distances."""
        from safetensors.torch import save

        folder = Path(folder)
        if self.unknown is not None and (reference := self.unknown.reference) is not None:
            tensors = {"whitening": reference.whitening, "means": reference.means}
            write(folder / "policy.safetensors", save(tensors))
        write_json(folder / "policy.json", self.to_json())


def read_policy(folder: str | Path) -> Policy:
    """The policy kept in a folder. Raises LevelheadError naming the file."""
    path = Path(folder) / "policy.json"
    content = read_object(path)
    needed = (content.get("unknown") or {}).get("score") == "distance"
    reference = read_reference(folder) if needed else None
    with reading(path, SET_ANEW):
        try:
            return Policy.from_json(content, reference)
        except LevelheadError as error:
            raise LevelheadError(f"{path}: {error}") from None


def read_reference(folder: str | Path) -> Reference | None:
    """The features that distances are measured from; None where a folder holds none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / "policy.safetensors"
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        return Reference(tensors["whitening"], tensors["means"])
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise LevelheadError(f"{path}: damaged ({error}); train anew into another --out") from None


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a policy to N examples, a column a property."""

    policy: Policy
    kind: Tensor  # int64 [N], a position in KINDS
    choice: Tensor  # int64 [N], the class answered, −1 where it is none
    best: Tensor  # int64 [N], the likeliest class
    confidence: Tensor  # float64 [N], its probability
    certainty: Tensor  # float64 [N], the policy's score
    probabilities: Tensor | None  # float64 [N, K], calibrated
    sets: Tensor | None  # bool [N, K]
    known: Tensor | None  # float64 [N], how like the own images
    price: Tensor | None  # float64 [N], expected cost of the choice

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: Tensor) -> Answers:
        """Those at `index` (integers), in that order."""
        columns: dict[str, Any] = {}
        for field in fields(Answers):
            value = getattr(self, field.name)
            columns[field.name] = value[index] if isinstance(value, Tensor) else value
        return Answers(**columns)

    @cached_property
    def kinds(self) -> list[str]:
        """class, set, ask or none."""
        return [KINDS[k] for k in self.kind.tolist()]

    @cached_property
    def decisions(self) -> list[str]:
        """The class, or what stands for an answer that is none."""
        names = self.policy.class_names
        rows = zip(self.kinds, self.choice.tolist(), strict=True)
        return [names[k] if kind == "class" else SPOKEN[kind] for kind, k in rows]

    @cached_property
    def set_names(self) -> list[tuple[str, ...]]:
        """The classes of each set, the likeliest first."""
        if self.sets is None or self.probabilities is None:
            return [()] * len(self)
        names, order = self.policy.class_names, self.probabilities.argsort(1, descending=True)
        rows = zip(order.tolist(), self.sets.gather(1, order).tolist(), strict=True)
        return [tuple(names[k] for k, inside in zip(*row, strict=True) if inside) for row in rows]

    @cached_property
    def reasons(self) -> list[str]:
        """Why each answer is what it is."""
        return [self._reason(i) for i in range(len(self))]

    def _reason(self, i: int) -> str:
        policy, kind, k = self.policy, self.kinds[i], int(self.best[i])
        if kind == "none":
            assert policy.unknown is not None
            assert self.known is not None
            what = policy.unknown.score.replace("_", " ")
            what, value, limit = (
                ("distance to the training images", -float(self.known[i]), -policy.unknown.quantile)
                if what == "distance"
                else (what, float(self.known[i]), policy.unknown.quantile)
            )
            side = "above" if what.startswith("distance") else "below"
            return f"{what} {value:.4g} is {side} {limit:.4g}"
        if self.price is not None:
            what = "cheapest" if kind == "class" else "asking is cheapest"
            return f"{what}: expected cost {float(self.price[i]):.4g}"
        if not policy.thresholds:
            return "the likeliest class; no promise"
        one = policy.thresholds[0 if len(policy.thresholds) == 1 else k]
        if one.value is None:
            return f"no threshold keeps a risk of {one.risk_wanted * 100:.4g} %"
        side = "at least" if kind == "class" else "below"
        if math.isinf(one.value):
            return f"all may be answered at a risk of {one.risk_wanted * 100:.4g} %"
        if policy.score == "msp":
            return f"confidence {float(self.confidence[i]):.4f} is {side} {sharp(one.value)}"
        return f"{policy.score} {float(self.certainty[i]):.4g} is {side} {one.value:.4g}"


def joined(parts: Sequence[Answers]) -> Answers:
    """The answers of several batches to one policy, one after the other."""
    columns: dict[str, Any] = {}
    for field in fields(Answers):
        values = [getattr(part, field.name) for part in parts]
        columns[field.name] = values[0] if not isinstance(values[0], Tensor) else torch.cat(values)
    return Answers(**columns)


def sets_of(fitted: Conformal, outputs: Outputs) -> Tensor:
    """Sets, bool [N, K], that always hold the likeliest class: an empty one helps nobody."""
    inside = conformal.sets(fitted, outputs)
    return inside.scatter(1, outputs.predictions()[:, None], True)


def threshold_at(
    confidence: float, classes: Sequence[str], calibrator: Calibrator | None
) -> Policy:
    """A policy without promises: answer from a confidence on, whatever that is worth."""
    # From 1 − 2⁻⁵⁴ on a confidence is 1 in float64.
    value = -math.log1p(-confidence) if confidence < 1 else 54 * math.log(2)
    one = Threshold(
        value=value, risk_wanted=math.nan, coverage=math.nan, bound=None, n_kept=0, errors_kept=0,
        method="given", delta=math.nan, guarantee=None, n=0, score="msp",
    )  # fmt: skip
    thresholds = (one,) if confidence > 0 else ()
    return Policy(tuple(classes), calibrator, "msp", thresholds, None, None, None, math.nan, 0, 0)

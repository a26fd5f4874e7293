"""One module that decides: uint8 images of any size in, the policy's answers out.

Everything that `predict` does to decoded pixels, in tensor operations alone, so that ONNX and
torch's exported programs hold the same arithmetic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from levelhead.calibrators.calibrator import Layer
from levelhead.data.decode import UNIT
from levelhead.data.views import Views
from levelhead.decisions.policy import KINDS, Answers, Policy
from levelhead.errors import LevelheadError
from levelhead.models import Network

OUTPUTS = (
    *("probabilities", "class", "decision", "set", "confidence", "known", "certainty", "cost"),
)
"""Names of what comes out, in order."""


class Decided(NamedTuple):
    """What comes out for B images and K classes."""

    probabilities: Tensor  # float32 [B, K], calibrated
    best: Tensor  # int64 [B], the likeliest class, or the one that costs least
    decision: Tensor  # int64 [B], a position in policy.KINDS: class, set, ask, none
    sets: Tensor  # bool [B, K]
    confidence: Tensor  # float64 [B], probability of the likeliest class
    known: Tensor  # float64 [B], how like the own images (0 where the policy has no such score)
    certainty: Tensor  # float64 [B], the policy's score
    cost: Tensor  # float64 [B], expected cost of the cheapest choice (0 without costs)

    def answers(self, policy: Policy) -> Answers:
        """The same as `Policy.answers` gives it."""
        kind, costs = self.decision, policy.costs is not None
        p = self.probabilities.double()
        return Answers(
            policy,
            kind,
            torch.where(kind == KINDS.index("class"), self.best, -1),
            p.argmax(1) if costs else self.best,
            self.confidence,
            self.certainty,
            p,
            None if policy.sets is None else self.sets,
            None if policy.unknown is None else self.known,
            self.cost if costs else None,
        )


class Deployed(nn.Module):
    """Decides images uint8 [B, H, W, 3] (RGB, upright) as `predict` decides decoded files."""

    limits: Tensor
    most: Tensor
    costs: Tensor
    whitening: Tensor
    means: Tensor

    def __init__(
        self, network: Network, policy: Policy, size: int, resize: str, views: Views
    ) -> None:
        super().__init__()
        self.network, self.policy = network, policy
        self.size, self.resize, self.views = size, resize, views
        self.calibrate = (
            Layer(lambda z: torch.log_softmax(z, 1))
            if policy.calibrator is None
            else policy.calibrator.layer()
        )
        flag = policy.unknown
        if flag is not None and flag.reference is not None:
            self.register_buffer("whitening", flag.reference.whitening)
            self.register_buffer("means", flag.reference.means)
        limits = [math.inf if t.value is None else t.value for t in policy.thresholds]
        k = len(policy.class_names)
        limits = limits * k if len(limits) == 1 else limits or [-math.inf] * k
        self.register_buffer(
            "limits", torch.tensor(limits, dtype=torch.float64).clamp(-1e300, 1e300)
        )
        # One threshold for all classes where each class has the same, in the unit of −log p.
        least = [math.inf] * k if policy.sets is None else list(policy.sets.quantile)
        least = least * k if len(least) == 1 else least
        self.register_buffer("most", torch.tensor(least, dtype=torch.float64).clamp(max=1e300))
        if policy.costs is not None:
            table = policy.costs.matrix
            if policy.costs.abstain is not None:
                table = torch.cat([table, policy.costs.abstain[:, None]], 1)
            self.register_buffer("costs", table)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`OUTPUTS`, in order."""
        return tuple(self.decide(*self.scores(images)))

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and features [B, D], averaged over the test-time views."""
        pixels = fitted(images, self.size, self.network.mean.shape[1], self.resize)
        by_view = [self.network.features(view) for view in self.views(pixels)]
        return self.views.scores(by_view, self.network.head)

    def decide(self, logits: Tensor, features: Tensor) -> Decided:
        """The policy's answers to logits [B, K] and features [B, D]; as `Policy.answers`."""
        policy, raw = self.policy, logits.double()
        log_p = self.calibrate(raw)
        p, best = log_p.exp(), log_p.argmax(1)
        others = torch.arange(log_p.shape[1], device=log_p.device)[None] != best[:, None]
        confidence = p.amax(1)
        certainty, cost = self._certainty(raw, log_p, others), torch.zeros_like(confidence)
        if policy.costs is not None:
            expected = p @ self.costs
            cost, choice = expected.amin(1), expected.argmin(1)
            sure = choice < log_p.shape[1]
            answer = torch.where(sure, choice, best)
        else:
            sure, answer = certainty >= self.limits[best], best
        inside = (-log_p <= self.most) | ~others
        if policy.sets is None:
            inside = inside | True
        several = inside.sum(1)
        small = (several > 1) & (several < log_p.shape[1])
        one, two = torch.ones_like(best), torch.full_like(best, 2)
        kind = torch.where(sure, torch.zeros_like(best), torch.where(small, one, two))
        known = torch.zeros_like(confidence)
        if (flag := policy.unknown) is not None:
            known = self._known(flag.score, raw, features)
            kind = torch.where(known < max(flag.quantile, -1e300), torch.full_like(best, 3), kind)
        return Decided(p.float(), answer, kind, inside, confidence, known, certainty, cost)

    def _certainty(self, raw: Tensor, log_p: Tensor, others: Tensor) -> Tensor:
        """The policy's score, float64 [B]."""
        name = self.policy.score
        if name == "msp":  # −log(1 − p₁), from the others: nothing near 1 is rounded
            lowest = torch.full_like(log_p, -1e300)
            return -torch.logsumexp(torch.where(others, log_p, lowest), 1)
        power = int(name.removeprefix("pnorm"))
        v = raw - raw.amax(1, keepdim=True)
        v = v - v.mean(1, keepdim=True)
        top, most = v.amax(1), v.abs().amax(1).clamp(min=1e-300)
        norm = (v.abs() / most[:, None]).pow(power).sum(1).pow(1 / power)
        return torch.where(norm > 0, (top / most) / norm.clamp(min=1e-300), torch.zeros_like(top))

    def _known(self, score: str, raw: Tensor, features: Tensor) -> Tensor:
        """How like the own images, float64 [B]."""
        if score == "energy":
            return torch.logsumexp(raw, 1)
        if score == "max_logit":
            return raw.amax(1)
        white = features[:, : self.whitening.shape[0]] @ self.whitening
        apart = white[:, None] - self.means[None]
        return -(apart * apart).sum(2).sqrt().amin(1).double()


class Bare(nn.Module):
    """The same without a policy: logits and features."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and features [B, D]."""
        return self.deployed.scores(images)


def fitted(images: Tensor, size: int, channels: int, resize: str) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, C, size, size], whole numbers 0 to 255; as `decode.fit`."""
    x = images.permute(0, 3, 1, 2)
    if channels == 1:  # OpenCV's integers for 0.299 R + 0.587 G + 0.114 B
        wide = x.int()
        luma = wide[:, 0] * 9798 + wide[:, 1] * 19235 + wide[:, 2] * 3735 + (1 << 14)
        x = torch.div(luma, 1 << 15, rounding_mode="floor")[:, None]
    x = x.float()
    height, width = (torch.scalar_tensor(n, dtype=torch.float64) for n in x.shape[2:])
    if resize == "crop":
        side = torch.minimum(height, width)
        starts, sides = [((n - side) / 2).floor() for n in (height, width)], (side, side)
    else:
        starts, sides = [torch.zeros_like(height)] * 2, (height, width)
    rows, columns = (
        resize_matrix(torch.arange(n, dtype=torch.float64) - start, side, size)
        for n, start, side in zip(x.shape[2:], starts, sides, strict=True)
    )
    x = (rows @ x * 4).round() / 4
    return (x @ columns.T).round().clamp(0, 255)


def resize_matrix(old: Tensor, length: Tensor, size: int) -> Tensor:
    """`decode.resize_matrix` for an axis whose length is not known yet: float32 [size, N].

    `old` float64 [N] are the places of the axis, of which those from 0 to length − 1 are used.
    """
    old, new = old[None], torch.arange(size, dtype=torch.float64)[:, None]

    def sums(ends: Tensor) -> Tensor:
        return (((ends * size - new * length) / length).clamp(0, 1) * UNIT).round()

    area = sums(old + 1) - sums(old)
    at = ((2 * new + 1) * length - size) / (2 * size)
    base = at.floor()
    cubic = torch.zeros_like(area)
    total, before = torch.zeros_like(at), torch.zeros_like(at)
    for tap in (-1, 0, 1, 2):
        distance = (at - base - tap).abs()
        near = (1.25 * distance - 2.25) * distance * distance + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        total = total + torch.where(distance <= 1, near, far)
        upto = (total * UNIT).round()
        place = torch.minimum((base + tap).clamp(min=0), length - 1)
        cubic = cubic + (old == place).double() * (upto - before)
        before = upto
    return (torch.where(length >= size, area, cubic) / UNIT).float()


def check_exportable(policy: Policy) -> None:
    """Raise LevelheadError for a policy that no graph can hold."""
    if policy.sets is not None and policy.sets.method != "lac":
        raise LevelheadError(f"sets by {policy.sets.method}: draw numbers, which no export can")

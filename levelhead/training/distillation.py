"""Distillation: learning from another network's probabilities (Hinton, Vinyals & Dean 2015).

L = (1 − β) · loss + β · T_s² · CE(p_teacher(T_t), p_student(T_s)). The temperatures of teacher and
student are two numbers: Müller et al. (2019) leave T_s at 1, Hinton et al. set T_s = T_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from levelhead.data.batches import Batch
from levelhead.data.entries import Dataset
from levelhead.errors import LevelheadError
from levelhead.models import Network
from levelhead.outputs import Outputs
from levelhead.recipe import Recipe
from levelhead.targets import UNLABELLED


def soften(teacher_logits: Tensor, temperature: float) -> Tensor:
    """The teacher's probabilities at a temperature, softmax(z / T): logits [B,K] -> [B,K]."""
    return torch.softmax(teacher_logits.float() / temperature, dim=1)


def distillation(
    losses: Tensor,
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float,
    temperature: float,
    student_temperature: float,
    match: Literal["probabilities", "logits"] = "probabilities",
) -> Tensor:
    """(1 − β) losses + β T_s² CE(p^t(T_t), p(T_s)) for each example, [B], in nats.

    `losses` [B] are those of the labels. T_s² keeps the size of the gradient as T_s grows (Hinton
    et al. 2015, section 2). With match="logits" the second term is β ½ ‖z − z^t‖², to which that
    one tends as both temperatures grow (ibid., section 2.1; Müller et al. 2019 on MNIST).
    """
    if match == "logits":
        squared = (logits.float() - teacher_logits.float()).square().sum(1)
        return (1 - beta) * losses + beta * squared / 2
    teacher = soften(teacher_logits, temperature)
    log_p = torch.log_softmax(logits.float() / student_temperature, dim=1)
    towards_teacher = -(teacher * log_p).sum(1)
    return (1 - beta) * losses + beta * student_temperature**2 * towards_teacher


def scaled(teacher_logits: Tensor, norm: float) -> Tensor:
    """Centred logits [B,K], each example's scaled to this L2 norm: ν (z − mean z) / ‖z − mean z‖.

    A smoothed teacher has smaller logits than a hard one, so that one temperature softens it more:
    at equal norms T means the same for both. ν = √K standardises (Sun et al. 2024, "Logit
    standardization in knowledge distillation").
    """
    centred = teacher_logits.float() - teacher_logits.float().mean(1, keepdim=True)
    size: Tensor = centred.norm(dim=1, keepdim=True)
    return norm * centred / size.clamp_min(1e-12)


def smoothness(teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Each example's share of the smoothness index γ, [B]: (1 − p^t_y(T)) · K / (K − 1).

    Its mean over the training set is Müller et al.'s γ (2019, section 5): label smoothing with
    ε = γ (uniform) gives the wrong classes as much.
    """
    classes = teacher_logits.shape[1]
    own = soften(teacher_logits, temperature).gather(1, labels[:, None]).squeeze(1)
    return (1 - own) * classes / (classes - 1)


@dataclass
class Teacher:
    """Logits for batches: of a network that sees the student's images, or fixed ones by row.

    `seen` and `total` add up the smoothness index of what the student was given.
    """

    network: Network | None
    table: Tensor | None  # float32 [N,K], in the order of the training split
    temperature: float
    norm: float | None = None  # of the centred logits of each example; None leaves them
    student_temperature: float = 1.0
    match: Literal["probabilities", "logits"] = "probabilities"
    beta: float = 1.0
    seen: int = 0
    total: float = 0.0

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Logits [B,K] for a batch of the student."""
        if self.network is not None:
            logits: Tensor = self.network(batch.images).float()
        else:
            assert self.table is not None
            logits = self.table[batch.index.to(self.table.device)].to(batch.labels.device)
        return logits if self.norm is None else scaled(logits, self.norm)

    def losses(self, losses: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """The student's losses of the labels [B] joined by those of the teacher; counts γ."""
        own = self.logits(batch)
        known = batch.labels != UNLABELLED
        self.total += float(smoothness(own[known], batch.labels[known], self.temperature).sum())
        self.seen += int(known.sum())
        return distillation(
            losses,
            logits,
            own,
            beta=self.beta,
            temperature=self.temperature,
            student_temperature=self.student_temperature,
            match=self.match,
        )

    @property
    def gamma(self) -> float:
        """The smoothness index γ of the soft targets given so far."""
        return self.total / max(self.seen, 1)


def load_teacher(recipe: Recipe, splits: Dataset, device: torch.device) -> Teacher:
    """The teacher of a recipe: a finished run, or a file of predictions for the training ids.

    Raises LevelheadError for other classes, another image size, ids that are missing, and for a
    teacher that was trained on what judges the student.
    """
    from levelhead.outputs.read import read_predictions
    from levelhead.runs import finished_run

    assert recipe.teacher is not None
    path, class_names = Path(recipe.teacher), splits.class_names
    if not path.is_dir():
        table = _table(read_predictions(path), splits.train.ids, class_names)
        return _teacher(recipe, table=table)
    run = finished_run(path)
    if tuple(run.data["class_names"]) != class_names:
        raise LevelheadError(f"--teacher {path}: has other classes than the data; give another")
    size = run.data["image_size"]
    if recipe.image_size is not None and recipe.image_size != size:
        raise LevelheadError(
            f"--teacher {path}: sees {size} px, the student {recipe.image_size}; "
            f"give --image-size {size}"
        )
    judging = {*splits.validation.ids, *splits.test.ids}
    if shared := judging & run.ids("train"):
        raise LevelheadError(
            f"--teacher {path}: was trained on {len(shared):,} images that judge the student, "
            f"first {min(shared)!r}; give both the same --split-seed and shares"
        )
    network = run.network(device)
    network.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    return _teacher(recipe, network)


def _teacher(
    recipe: Recipe, network: Network | None = None, table: Tensor | None = None
) -> Teacher:
    return Teacher(
        network,
        table,
        recipe.temperature,
        recipe.teacher_norm,
        recipe.student_temperature,
        recipe.match,
        recipe.beta,
    )


def _table(given: Outputs, ids: Sequence[str], class_names: tuple[str, ...]) -> Tensor:
    """Logits (of probabilities their logarithms) in the order of `ids`, float32 [N,K]."""
    if given.class_names != class_names:
        raise LevelheadError("--teacher: its predictions have other classes than the data")
    if given.ids is None:
        raise LevelheadError("--teacher: its predictions have no ids to find the images by")
    place = {name: i for i, name in enumerate(given.ids)}
    missing = [name for name in ids if name not in place]
    if missing:
        raise LevelheadError(
            f"--teacher: no prediction for {len(missing):,} of {len(ids):,} training images, "
            f"first {missing[0]!r}; give those of the training split"
        )
    rows = torch.tensor([place[name] for name in ids])
    scores = given.scores[rows].float()
    return scores if given.kind == "logits" else scores.clamp_min(1e-30).log()


def teacher_folder(teacher: str) -> Path:
    """The run of a teacher that may be given as predictions: RUN/outputs/train.safetensors."""
    path = Path(teacher)
    known = path.parent.name == "outputs" and (path.parent.parent / "recipe.toml").exists()
    return path.parent.parent if known else path


def warning(recipe: Recipe) -> str | None:
    """What is known to go wrong with this teacher and temperature, or None."""
    from levelhead.runs import finished_run

    if recipe.teacher is None or recipe.temperature <= 1 or recipe.teacher_norm is not None:
        return None
    folder = teacher_folder(recipe.teacher)
    if not folder.is_dir():
        return None
    smoothing = finished_run(folder).recipe.smoothing
    if not smoothing:
        return None
    return (
        f"The teacher was trained with smoothing {smoothing:g} and is distilled at temperature "
        f"{recipe.temperature:g}: published students of smoothed teachers lose above 1 (ImageNet, "
        "ResNet-50 to ResNet-18 at 2: 68.9 against 71.4 %, Chandrasegaran et al. 2022), for its "
        "targets are softer than a hard teacher's (CIFAR-10, docs/mueller2019: smoothness index "
        "0.56 against 0.26 at 2, students 70.4 against 74.7 %, at equal index alike); "
        "--temperature 1, a teacher with hard targets, or --teacher-norm (that of a hard one: "
        "74.7 % there) avoid it."
    )

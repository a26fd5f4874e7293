"""From a recipe to the run folder of a Transformer: `train_translator`, and going on with one."""

from __future__ import annotations

import dataclasses
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from levelhead import machine
from levelhead.calibrators import Calibrator, calibrator_of
from levelhead.errors import LevelheadError
from levelhead.files import (
    clean,
    locked,
    read_object,
    reading,
    refuse_pipes,
    write,
    write_json,
    write_rows,
)
from levelhead.losses import find_loss
from levelhead.machine import gains_from_bfloat16, pick_device, tune_malloc
from levelhead.outputs import Outputs, read_predictions
from levelhead.runs import MAKE_ANEW, new_folder, read_history
from levelhead.targets import check_smoothing
from levelhead.text import count
from levelhead.training import optim
from levelhead.training.checkpoint import State, load_checkpoint, save_checkpoint, state_of
from levelhead.training.events import Epoch, Event, Note, Progress
from levelhead.training.loop import fit
from levelhead.training.objective import Objective
from levelhead.training.prior import balanced_weights
from levelhead.translation.corpus import Corpus, read_corpus, shortened
from levelhead.translation.tokens import HeldSentences, TokenBatches, Tokens
from levelhead.translation.transformer import Size, Translator
from levelhead.translation.translation_findings import judged
from levelhead.translation.translation_recipe import TASK, TranslationRecipe
from levelhead.translation.vocabulary import Vocabulary


@dataclass(frozen=True)
class TranslationRun:
    """A run folder, read when asked. Raises LevelheadError for what is missing or damaged."""

    folder: Path

    @property
    def recipe(self) -> TranslationRecipe:
        """The resolved recipe."""
        return TranslationRecipe.load(self.folder / "recipe.toml")

    @property
    def data(self) -> dict[str, Any]:
        """What was trained on: languages, counts, hashes, notes."""
        return read_object(self.folder / "data.json")

    @property
    def findings(self) -> dict[str, Any]:
        """The judgement: tokens of validation and test, as they are and calibrated; the text."""
        return read_object(self.folder / "findings.json")

    def to_json(self) -> dict[str, Any]:
        """findings.json."""
        return self.findings

    @property
    def words(self) -> tuple[str, ...]:
        """What was found, as sentences."""
        return tuple(map(str, self.findings["words"]))

    @property
    def finished(self) -> bool:
        """Whether training and judging came to their end (findings are written last)."""
        return (self.folder / "findings.json").exists()

    @property
    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv."""
        return read_history(self.folder / "history.csv")

    @property
    def vocabulary(self) -> Vocabulary:
        """The pieces of words."""
        return Vocabulary.load(self.folder / "vocabulary.model")

    @property
    def calibration(self) -> Calibrator:
        """The temperature of validation's tokens."""
        path = self.folder / "calibration.json"
        with reading(path, MAKE_ANEW):
            return calibrator_of(read_object(path))

    def path_of(self, split: str) -> Path:
        """Where the token predictions of `validation` and `test` are kept."""
        return self.folder / "outputs" / f"{split}.safetensors"

    def outputs(self, split: str) -> Outputs:
        """The token predictions of a split."""
        return read_predictions(self.path_of(split))

    def corpus(self) -> Corpus:
        """Its sentences, read again. Raises LevelheadError if they are no longer the same."""
        corpus = corpus_of(self.recipe)
        hashes, kept = hashes_of(corpus), self.data["hashes"]
        for name, hash_ in hashes.items():
            if kept.get(name) != hash_:
                raise LevelheadError(
                    f"{self.folder}: the {name} sentences of {self.recipe.data} are no longer "
                    "those it was started on; restore them, or train anew into another --out"
                )
        return corpus

    def network(self, device: str | torch.device = "cpu") -> Translator:
        """The trained network, ready to translate."""
        path = self.folder / "model.safetensors"
        network = Translator(size_of(self.recipe, len(self.vocabulary)))
        refuse_pipes(path)
        try:
            network.load_state_dict(load_file(path))
        except FileNotFoundError:
            raise LevelheadError(
                f"{path}: missing; training has not finished: levelhead resume {self.folder}"
            ) from None
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LevelheadError(
                f"{path}: not this recipe's model ({reason}); train anew into another --out"
            ) from None
        return network.place(device).eval()


def is_translation(folder: str | Path) -> bool:
    """Whether a folder holds a run of this kind."""
    path = Path(folder) / "recipe.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("task") == TASK
    except (OSError, ValueError):
        return False


def open_translation(folder: str | Path) -> TranslationRun:
    """A finished run of this kind. Raises LevelheadError for anything else."""
    path = Path(folder)
    if not is_translation(path):
        kind = "a run of images" if (path / "recipe.toml").exists() else "not a run folder"
        raise LevelheadError(f"{path}: {kind}; give one that levelhead train-translator made")
    run = TranslationRun(path)
    if not run.finished:
        raise LevelheadError(f"{path}: training has not finished; levelhead resume {path}")
    return run


def corpus_of(recipe: TranslationRecipe) -> Corpus:
    """The sentences of a recipe. Raises LevelheadError as `read_corpus` does."""
    return read_corpus(
        recipe.data,
        (recipe.source, recipe.target),
        validation=recipe.validation,
        test=recipe.test,
        split_seed=recipe.split_seed,
        test_set=recipe.test_set,
        skip_broken=recipe.skip_broken,
        strict_splits=recipe.strict_splits,
    )


def hashes_of(corpus: Corpus) -> dict[str, str]:
    """What tells whether the sentences are the same, by split."""
    return {name: part.hash for name, part in corpus.splits.items()}


def size_of(recipe: TranslationRecipe, vocabulary: int) -> Size:
    """What a resolved recipe's network is built for."""
    assert recipe.layers is not None
    assert recipe.width is not None
    assert recipe.heads is not None
    assert recipe.feed_forward is not None
    assert recipe.dropout is not None
    return Size(
        vocabulary, recipe.layers, recipe.width, recipe.heads, recipe.feed_forward,
        recipe.dropout, recipe.norm, recipe.positions, recipe.longest,
    )  # fmt: skip


def train_translator(
    recipe: TranslationRecipe,
    out: str | Path | None = None,
    *,
    watch: Callable[[Event], None] = lambda event: None,
) -> TranslationRun:
    """Train and judge: a recipe becomes a run folder (default: the next runs/NAME-N).

    Raises LevelheadError for bad input, and for a loss that is no longer finite.
    """
    tune_malloc()
    recipe = recipe.resolved()
    corpus = corpus_of(recipe)
    assert recipe.vocabulary is not None
    train, hashes = corpus.splits["train"], hashes_of(corpus)
    vocabulary = Vocabulary.of((*train.source, *train.target), recipe.vocabulary)
    corpus, tokens = encoded(corpus, vocabulary, recipe)
    assert recipe.batch_tokens is not None
    batches = TokenBatches(tokens["train"], recipe.batch_tokens, recipe.seed, torch.device("cpu"))
    if recipe.epochs is None:
        assert recipe.updates is not None
        recipe = recipe.replace(epochs=max(1, round(recipe.updates / len(batches))))
    recipe = recipe.replace(updates=(recipe.epochs or 1) * len(batches))
    if recipe.precision is None:
        fast = gains_from_bfloat16(pick_device(recipe.device))
        recipe = recipe.replace(precision="bfloat16" if fast else "float32")
    objective_of(recipe, vocabulary, tokens["train"])
    folder = new_folder(out, corpus.name)
    with locked(folder, "run"):
        write(folder / "recipe.toml", recipe.to_toml())
        vocabulary.save(folder / "vocabulary.model")
        write_json(
            folder / "data.json",
            {
                "name": corpus.name,
                "languages": corpus.languages,
                "counts": {name: len(part) for name, part in corpus.splits.items()},
                "tokens": {name: len(part.labels) for name, part in tokens.items()},
                "hashes": hashes,
                "pieces": len(vocabulary),
                "notes": corpus.notes,
            },
        )
        return _finish(TranslationRun(folder), recipe, corpus, vocabulary, tokens, watch)


def resume_translator(
    folder: str | Path, *, watch: Callable[[Event], None] = lambda event: None
) -> TranslationRun:
    """Go on with a run that was stopped; it ends as if it never had been (same machine, CPU)."""
    run = TranslationRun(Path(folder))
    if run.finished:
        return run
    tune_malloc()
    with locked(run.folder, "run"):
        clean(run.folder)
        recipe, vocabulary = run.recipe, run.vocabulary
        corpus, tokens = encoded(run.corpus(), vocabulary, recipe)
        return _finish(run, recipe, corpus, vocabulary, tokens, watch)


def encoded(
    corpus: Corpus, vocabulary: Vocabulary, recipe: TranslationRecipe
) -> tuple[Corpus, dict[str, Tokens]]:
    """The sentences as tokens; those that are too long are refused, or left out if they may be."""
    keep: dict[str, Sequence[int]] = {}
    tokens: dict[str, Tokens] = {}
    notes: list[str] = []
    for name, part in corpus.splits.items():
        whole = Tokens.of(part, vocabulary)
        longest = [max(len(a), len(b)) for a, b in zip(whole.source, whole.target, strict=True)]
        keep[name] = [i for i, length in enumerate(longest) if length <= recipe.longest]
        missing = len(part) - len(keep[name])
        if missing and not recipe.skip_broken:
            first = next(i for i, length in enumerate(longest) if length > recipe.longest)
            raise LevelheadError(
                f"{part.ids[first]}: {longest[first]:,} pieces, --longest {recipe.longest} allows "
                f"fewer ({count(missing, 'such line')}); split it, or leave them out with "
                "--skip-broken"
            )
        if missing:
            notes.append(f"{name}: {count(missing, 'pair')} left out, too long (--longest).")
        tokens[name] = Tokens(
            [whole.source[i] for i in keep[name]], [whole.target[i] for i in keep[name]]
        )
        if not len(tokens[name]):
            raise LevelheadError(f"--longest {recipe.longest}: leaves no pairs of {name}; raise it")
    return shortened(corpus, keep, notes), tokens


def objective_of(recipe: TranslationRecipe, vocabulary: Vocabulary, train: Tokens) -> Objective:
    """What a resolved recipe asks for: of tokens, as of images. Raises as the loss does."""
    pieces, loss = len(vocabulary), find_loss(recipe.loss)
    check_smoothing(recipe.smoothing, pieces, recipe.convention)
    weights = None
    if recipe.class_weights == "balanced":
        weights = balanced_weights(train.labels, pieces)
    options = loss.options(recipe.smoothing, recipe.convention, weights, recipe.loss_knobs)
    return Objective(loss, options)


@dataclass(frozen=True)
class _Row:
    """A row of history.csv: an Epoch, its examples called tokens."""

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: float
    train_nll: float
    train_accuracy: float
    validation_nll: float
    validation_accuracy: float
    validation_confidence: float
    tokens_per_second: float


def _finish(
    run: TranslationRun,
    recipe: TranslationRecipe,
    corpus: Corpus,
    vocabulary: Vocabulary,
    tokens: dict[str, Tokens],
    watch: Callable[[Event], None],
) -> TranslationRun:
    """Train (from the checkpoint, if any), then write everything else of the run folder."""
    folder, device = run.folder, pick_device(recipe.device)
    network = Translator(size_of(recipe, len(vocabulary)), recipe.seed).place(device)
    network.dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    assert recipe.batch_tokens is not None
    batches = TokenBatches(tokens["train"], recipe.batch_tokens, recipe.seed, device)
    parameters = sum(weight.numel() for weight in network.parameters())
    for note in (
        *corpus.notes,
        f"{recipe.preset}: {parameters:,} parameters, {len(vocabulary):,} pieces; "
        f"{recipe.epochs} epochs of {len(batches)} steps, about {recipe.batch_tokens:,} tokens "
        f"each, {recipe.optimizer} at {recipe.lr:g} ({recipe.schedule}), {recipe.precision}.",
    ):
        watch(Note(note))
    began = {**machine.environment(device), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    write_json(folder / "environment.json", began)
    objective = objective_of(recipe, vocabulary, tokens["train"]).place(device)
    state = State(network, optim.optimisers(network, recipe), objective)
    _train(run, state, batches, HeldSentences(tokens["validation"], device), recipe, watch)
    if state.sums:
        number = min(recipe.average or 1, recipe.epochs or 1)
        network.load_state_dict({name: total / number for name, total in state.sums.items()})
    network.dtype = torch.float32
    write(folder / "model.safetensors", save(state_of(network)))
    rate = batches.examples * state.epoch / max(state.step_seconds, 1e-9)
    findings = judged(
        folder, network, corpus, vocabulary, tokens, recipe,
        progress=lambda what, done, total: watch(Progress(what, done, total)),
    )  # fmt: skip
    findings |= {"seconds": round(state.seconds, 3), "tokens_per_second": round(rate, 1)}
    began |= {
        "seconds": round(state.seconds, 3),
        "tokens_per_second": round(rate, 1),
        "peak_memory_bytes": machine.peak_memory(),
    }
    write_json(folder / "environment.json", began)
    write_json(folder / "findings.json", findings)
    for path in (folder / "checkpoint").glob("*"):
        path.unlink()
    return run


def _train(
    run: TranslationRun,
    state: State,
    batches: TokenBatches,
    held: HeldSentences,
    recipe: TranslationRecipe,
    watch: Callable[[Event], None],
) -> None:
    """`fit` from the last checkpoint to the end; sums the weights of the last epochs."""
    history = load_checkpoint(run.folder, state)
    if history:
        watch(Note(f"Going on after epoch {state.epoch} of {recipe.epochs}."))
    for event in fit(state, batches, held, recipe):
        if isinstance(event, Epoch):
            history.append(event)
            if event.epoch > (recipe.epochs or 0) - (recipe.average or 0):
                add_weights(state.sums, state_of(state.network))
            save_checkpoint(run.folder, state, history)
            _write_history(run, history)
        watch(event)
    _write_history(run, history)


def add_weights(sums: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Add weights to their sums, in place."""
    for name, tensor in weights.items():
        sums[name] = sums[name] + tensor if name in sums else tensor.clone()


def _write_history(run: TranslationRun, history: list[Epoch]) -> None:
    rows = []
    for epoch in history:
        values = dataclasses.asdict(epoch)
        rows.append(_Row(tokens_per_second=values.pop("images_per_second"), **values))
    write_rows(run.folder / "history.csv", rows)

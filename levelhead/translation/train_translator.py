"""From a recipe to the run folder of a Transformer: `train_translator`, and going on with one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from levelhead import machine
from levelhead.files import clean, locked, write, write_json
from levelhead.losses import find_loss
from levelhead.machine import gains_from_bfloat16, pick_device, tune_malloc
from levelhead.runs import new_folder
from levelhead.targets import check_smoothing
from levelhead.training import optim
from levelhead.training.checkpoint import State, load_checkpoint, state_of
from levelhead.training.course import course, tidy
from levelhead.training.events import Epoch, Event, Note, Progress
from levelhead.training.objective import Objective, class_weights
from levelhead.translation import extra
from levelhead.translation.corpus import Corpus
from levelhead.translation.tokens import HeldSentences, TokenBatches, Tokens
from levelhead.translation.transformer import Translator
from levelhead.translation.translation_findings import judged
from levelhead.translation.translation_recipe import TranslationRecipe
from levelhead.translation.translation_run import (
    TranslationRun,
    corpus_of,
    encoded,
    hashes_of,
    size_of,
)
from levelhead.translation.vocabulary import Vocabulary


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
    extra("sacrebleu")  # said before the work, not after
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


def objective_of(recipe: TranslationRecipe, vocabulary: Vocabulary, train: Tokens) -> Objective:
    """What a resolved recipe asks for: of tokens, as of images. Raises as the loss does."""
    pieces, loss = len(vocabulary), find_loss(recipe.loss)
    check_smoothing(recipe.smoothing, pieces, recipe.convention)
    weights = class_weights(recipe, train.labels, pieces)
    options = loss.options(recipe.smoothing, recipe.convention, weights, recipe.loss_knobs)
    return Objective(loss, options)


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
    environment = {**machine.environment(device), "started": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    write_json(folder / "environment.json", environment)
    objective = objective_of(recipe, vocabulary, tokens["train"]).place(device)
    state = State(network, optim.optimisers(network, recipe), objective)
    _train(run, state, batches, HeldSentences(tokens["validation"], device), recipe, watch)
    if state.sums:
        number = min(recipe.average or 1, recipe.epochs or 1)
        network.load_state_dict({name: total / number for name, total in state.sums.items()})
    network.dtype = torch.float32
    write(folder / "model.safetensors", save(state_of(network)))
    rate = batches.examples * state.epoch / max(state.step_seconds, 1e-9)
    pace = {"seconds": round(state.seconds, 3), "tokens_per_second": round(rate, 1)}
    findings = judged(
        folder, network, corpus, vocabulary, tokens, recipe,
        progress=lambda what, done, total: watch(Progress(what, done, total)),
    )  # fmt: skip
    environment |= pace | {"peak_memory_bytes": machine.peak_memory()}
    write_json(folder / "environment.json", environment)
    write_json(folder / "findings.json", findings | pace)
    tidy(folder)
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

    def sum_up(epoch: Epoch) -> None:
        if epoch.epoch > (recipe.epochs or 0) - (recipe.average or 0):
            add_weights(state.sums, state_of(state.network))

    names = {"images_per_second": "tokens_per_second"}
    for event in course(
        run.folder, state, history, batches, held, recipe, renamed=names, before_saving=sum_up
    ):
        watch(event)


def add_weights(sums: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Add weights to their sums, in place."""
    for name, tensor in weights.items():
        sums[name] = sums[name] + tensor if name in sums else tensor.clone()

"""levelhead: image classifiers whose confidence can be believed.

1. A `Recipe` says everything about a training; `train(recipe)` makes a `Run`, a folder.
2. `Outputs` (logits or probabilities, with labels) is what everything after training consumes.
3. `audit(outputs)` judges anyone's predictions, `versus(a, b)` two models on the same examples;
   `calibrate` and `decide` act on validation.
   A run's policy decides new images: `predict(run, images)`, `export(run, "model.onnx")`,
   `serve(run)`; `watch(run, images)` says whether it still may.
   `train_translator(TranslationRecipe("multi30k", source="en", target="de"))` and
   `translate(run, lines)` are the same for sentences.
4. `compare(recipe, grid)` trains settings over seeds and says which to use.
5. `levelhead.targets`, `losses`, `models`, `calibrators`, `metrics`, `figures` are the rooms.
6. Bad input raises `LevelheadError`: one line that names the value and the fix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from levelhead.errors import LevelheadError
from levelhead.recipe import Recipe

if TYPE_CHECKING:
    from levelhead.decisions.policy import Policy
    from levelhead.deploy.export import export
    from levelhead.deploy.predict import predict
    from levelhead.deploy.verify import verify
    from levelhead.estimator import ImageClassifier
    from levelhead.judging import audit, calibrate, decide, judge, versus
    from levelhead.models.describe import describe
    from levelhead.outputs import Outputs, read_predictions
    from levelhead.report import write_judgement, write_report
    from levelhead.runs import Run, open_run
    from levelhead.serving.serve import serve
    from levelhead.studies.compare import compare, open_study
    from levelhead.training import fit, resume, train
    from levelhead.translation.train_translator import train_translator
    from levelhead.translation.translate import translate
    from levelhead.translation.translation_recipe import TranslationRecipe
    from levelhead.watching.watch import watch

__version__: str

__all__ = [
    "ImageClassifier",
    "LevelheadError",
    "Outputs",
    "Policy",
    "Recipe",
    "Run",
    "TranslationRecipe",
    "audit",
    "calibrate",
    "compare",
    "decide",
    "describe",
    "export",
    "fit",
    "judge",
    "open_run",
    "open_study",
    "predict",
    "read_predictions",
    "resume",
    "serve",
    "train",
    "train_translator",
    "translate",
    "verify",
    "versus",
    "watch",
    "write_judgement",
    "write_report",
]

_ROOMS = {
    "Outputs": "outputs",
    "read_predictions": "outputs",
    "audit": "judging",
    "calibrate": "judging",
    "decide": "judging",
    "judge": "judging",
    "versus": "judging",
    "Policy": "decisions.policy",
    "describe": "models.describe",
    "predict": "deploy.predict",
    "ImageClassifier": "estimator",
    "export": "deploy.export",
    "verify": "deploy.verify",
    "serve": "serving.serve",
    "watch": "watching.watch",
    "Run": "runs",
    "open_run": "runs",
    "compare": "studies.compare",
    "open_study": "studies.compare",
    "fit": "training",
    "resume": "training",
    "train": "training",
    "TranslationRecipe": "translation.translation_recipe",
    "train_translator": "translation.train_translator",
    "translate": "translation.translate",
    "write_judgement": "report",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import a room when it is first asked for: `import levelhead` itself stays light."""
    if name == "__version__":
        from levelhead.machine import version

        return version()
    if name not in _ROOMS:
        raise AttributeError(f"module 'levelhead' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"levelhead.{_ROOMS[name]}"), name)

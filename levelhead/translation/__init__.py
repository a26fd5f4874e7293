"""Translation: a Transformer trained as the images' networks are, judged by BLEU and likelihood.

`train_translator` makes a `TranslationRun`, `translate` uses it. Needs the extra `translation`
(sentencepiece, sacrebleu).
"""

from __future__ import annotations

from types import ModuleType

from levelhead.errors import LevelheadError


def extra(name: str) -> ModuleType:
    """A library of the extra. Raises LevelheadError where it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise LevelheadError(
            f"{name} is missing; pip install 'levelhead[translation]' brings it"
        ) from None

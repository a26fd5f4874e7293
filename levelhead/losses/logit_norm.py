"""LogitNorm loss: cross-entropy of logits brought to one length."""

from __future__ import annotations

import torch
from torch import Tensor

from levelhead.losses.loss import Knob, Loss, Options
from levelhead.losses.terms import expectation, log_softmax, widened
from levelhead.targets import Targets


def _logit_norm(logits: Tensor, targets: Targets, options: Options) -> Tensor:
    """Cross-entropy of z/(τ‖z‖₂); τ = strength (0.04) -> [B], in nats.

    Smoothing, soft targets and class weights as in `cross_entropy`. The length of the logits does
    not matter to it, a shift of all of them does (unlike every other loss here): the plain NLL of
    z needs a fitted temperature. A length below 1e-7 counts as 1e-7: z = 0 has no direction. The
    slope grows as 1/(τ‖z‖₂), near 0 beyond what float16 logits can hold in their gradient; and a
    penalty on the weights alone has no minimum with it: they shrink, the loss stays.
    Raises LevelheadError for an ε or τ out of range.
    Source: Wei et al. 2022, "Mitigating neural network overconfidence with logit normalization".
    """
    scores = widened(logits)
    # Lest the squares overflow; a constant factor changes neither the loss nor its slope.
    scores = scores / scores.detach().abs().amax(dim=1, keepdim=True).clamp_min(1)
    length = torch.linalg.vector_norm(scores, dim=1, keepdim=True).clamp_min(1e-7)
    return -expectation(
        log_softmax(scores / (options.knobs["strength"] * length)), targets, options
    )


logit_norm = Loss(
    "logit_norm",
    _logit_norm,
    knobs={"strength": Knob(0.04, "τ", positive=True)},
    scale=False,
)

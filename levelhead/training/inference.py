"""A network and images make Outputs, in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from levelhead.data.batches import Batch, as_batch, judging_size, plain_batches
from levelhead.data.entries import Examples
from levelhead.data.views import WHOLE, Views
from levelhead.machine import whole_float32
from levelhead.models import Network
from levelhead.outputs import Outputs

# Features beyond this many bytes are not kept with the outputs; they can be made again.
KEPT_FEATURES = 1 << 28


JUDGING_BATCH = 500


@torch.no_grad()
def scores_of(network: Network, split: Batch, views: Views = WHOLE) -> tuple[Tensor, Tensor]:
    """Logits [N,K] and penultimate features [N,D] in evaluation mode, over test-time views."""
    if network.training:  # to say it anew takes longer than a small image
        network.eval()
    logits, features = [], []
    size = judging_size(JUDGING_BATCH, split.images)
    with whole_float32():
        for batch in plain_batches(split, size, network.device):
            by_view = [network.features(view) for view in views(batch.images)]
            scores, mean = views.scores(by_view, network.head)
            logits.append(scores)
            features.append(mean)
    return torch.cat(logits), torch.cat(features)


@torch.no_grad()
def outputs_of(
    network: Network,
    examples: Examples,
    class_names: tuple[str, ...],
    device: torch.device,
    *,
    views: Views = WHOLE,
    features: Tensor | None = None,
    split: str | None = None,
    split_hash: str | None = None,
) -> Outputs:
    """Outputs of `examples`: float32 logits and features, whatever precision trained the network.

    `features`, averaged over the views, may be given where they are known already (a frozen body);
    averaged probabilities need those of each view.
    """
    head = network.head
    if features is None or views.average == "probabilities":
        trained_in, network.dtype = network.dtype, torch.float32
        logits, features = scores_of(network, as_batch(examples, device), views)
        network.dtype = trained_in
    else:
        logits = head(features.to(head.weight.device))
    logits = logits.cpu()
    kept: dict[str, Any] = {}
    # A network that trains on raw pixels has no representation worth a copy of the images.
    if features.numel() * 4 <= KEPT_FEATURES and any(True for _ in network.body.parameters()):
        kept["features"] = features.cpu()
    bias = head.bias
    return Outputs(
        "logits",
        logits,
        torch.from_numpy(examples.labels),
        class_names,
        ids=examples.ids,
        groups=examples.groups,
        head_weight=head.weight.detach().cpu(),
        head_bias=None if bias is None else bias.detach().cpu(),
        split=split,
        split_hash=split_hash,
        **kept,
    )

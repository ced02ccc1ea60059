"""The way from a decoder's hidden states to losses, for models whose head is a plain linear layer.

Knowing it, logits need never be held for all tokens at once. Whether a model's head is that plain is tried out, not
read from its config: some scale or cap their logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftcluster.models.attention import Documents

HeadLosses = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True)
class Output:
    """A causal language model, taken apart in front of its head."""

    model: Any
    plain: bool  # logits are hidden states times the head's weight, and nothing else

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, documents: tuple[Documents, ...]) -> Tensor:
        """What the head gets, [T, H]; of a model whose head is not plain its logits, [T, V]."""
        run = self.model.base_model if self.plain else self.model
        found = run(
            input_ids=tokens_T.unsqueeze(0), position_ids=positions_T.unsqueeze(0), use_cache=False, documents=documents
        )
        made: Tensor = found[0] if self.plain else found.logits
        return made[0]

    def losses(self, hidden_NH: Tensor, targets_N: Tensor, head_losses: HeadLosses) -> Tensor:
        """Loss per token, [N]."""
        if self.plain:
            head = self.model.get_output_embeddings()
            return head_losses(hidden_NH, head.weight, getattr(head, "bias", None), targets_N)
        wide = hidden_NH if hidden_NH.dtype.itemsize >= 4 else hidden_NH.float()
        return torch.nn.functional.cross_entropy(wide, targets_N, reduction="none")


@torch.no_grad()
def find_output(model: Any) -> Output:
    """Try a few tokens both ways."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return Output(model, plain=False)
    tokens = torch.tensor([[token % head.out_features for token in (3, 4, 5, 9)]], device=head.weight.device)
    model.eval()
    logits = model(input_ids=tokens, use_cache=False).logits
    hidden = model.base_model(input_ids=tokens, use_cache=False)[0]
    same = hidden.shape[-1] == head.in_features and torch.equal(head(hidden), logits)
    return Output(model, plain=bool(same))

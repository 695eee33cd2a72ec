"""The loss from the hidden states of answer tokens, without ever holding all their logits.

Prompts carry no loss, so their logits are never computed. Those of the answers are computed a
block at a time; each block's gradient is taken right there, so with a vocabulary of 150,000 a block
costs some hundred MiB instead of gigabytes. The head is frozen, as LoRA leaves it.
"""

from __future__ import annotations

from typing import Any

import torch

# Logits of one block, values: 2**27 in bfloat16 are 256 MiB, and twice that as float32.
_BLOCK = 1 << 27
_SCALED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier",
           "logits_scaling")  # fmt: skip


class _AnswerLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        rows = max(1, _BLOCK // weight.shape[0])
        for start in range(0, len(targets), rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows, None]
            logits = torch.matmul(part, weight.t()).float()
            # In place: log-probabilities, then probabilities, then the gradient.
            logits -= torch.logsumexp(logits, dim=-1, keepdim=True)
            total -= logits.gather(1, wanted).sum()
            if gradient is not None:
                logits.exp_()
                logits.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=logits.dtype))
                torch.matmul(logits.to(weight.dtype), weight, out=gradient[start : start + rows])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None


def plain(model: Any) -> bool:
    """Whether a model's head is one frozen product, with nothing before or behind it."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    return (
        type(head) is torch.nn.Linear
        and head.bias is None
        and not head.weight.requires_grad
        and all(getattr(config, name, None) in (None, 1, 1.0) for name in _SCALED)
    )


def add(model: Any) -> None:
    """Let a causal language model answer `model(…, answer_at=, answer_ids=)` with a loss.

    It is the summed negative log-likelihood of `answer_ids` [n], nats, predicted at the positions
    `answer_at` [n] of the flattened batch. Other calls are as before.

    Args:
        model: the base model, not its PEFT wrapper.
    """
    before = model.forward
    frozen = plain(model)

    def forward(*args: Any, answer_at: Any = None, answer_ids: Any = None, **kwargs: Any) -> Any:
        if answer_at is None:
            return before(*args, **kwargs)
        # PEFT passes what it was not given as None.
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        kwargs["use_cache"] = False
        if not frozen:
            return _through(before, args, kwargs, answer_at, answer_ids)
        states = model.base_model(*args, **kwargs).last_hidden_state.flatten(0, 1)
        states = states.index_select(0, answer_at)
        return _AnswerLoss.apply(states, model.get_output_embeddings().weight, answer_ids)

    model.forward = forward


def _through(before: Any, args: Any, kwargs: dict[str, Any], at: Any, targets: Any) -> Any:
    """The loss through a head of the model's own kind: all its logits at once."""
    tokens = kwargs["input_ids"].shape[1]
    columns, inverse = torch.unique(at % tokens, return_inverse=True)
    logits = before(*args, **kwargs, logits_to_keep=columns).logits
    chosen = logits[at // tokens, inverse].float()
    return torch.nn.functional.cross_entropy(chosen, targets, reduction="sum")

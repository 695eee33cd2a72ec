"""How the rows of an optimiser step are cut into forward passes, on any number of processes.

The rows of a step are what the settings say. How many of them go through the model at once follows
from the memory and changes nothing but the order of sums: losses are summed over answer tokens
and divided by the answer tokens of the whole step. So a run on a small machine, on a large one and
on several processes has the same loss curve.

Packed rows lie end to end in one sequence with positions of their own, and no token is padding.
Where a model would let them see each other (`train.fast.attention`), only rows of one length share
a pass: no padding either, and no neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

#: Marks a token without loss, as in PyTorch's cross entropy.
NO_LOSS = -100
# A pass that has nothing to do: processes that share a model must run equally many.
_FILLER = {"input_ids": [0], "labels": [NO_LOSS]}


class Cut(NamedTuple):
    """How steps are cut.

    Attributes:
        tokens: most tokens of a forward pass; a longer row goes alone.
        packed: rows lie end to end; otherwise only rows of one length share a pass.
        multiple: a packed pass is filled up with tokens without loss to a multiple of this,
            for kernels that are built for a shape.
        processes: that share each step.
        rank: which of them this is.
    """

    tokens: int
    packed: bool = True
    multiple: int = 1
    processes: int = 1
    rank: int = 0


def cut(sizes: Sequence[int], how: Cut) -> list[list[list[int]]]:
    """The rows of one step, as positions in `sizes`: for each process its passes.

    All processes get equally many passes; a pass may be empty. Passes hold nearly equally many
    tokens, so that no process waits long for another.

    Args:
        sizes: length of each row, tokens.
    """
    groups = _packed(sizes, how) if how.packed else _alike(sizes, how)
    groups += [[] for _ in range(-len(groups) % how.processes)]
    # The largest first, so that those which run at the same time are alike.
    groups.sort(key=lambda group: (-sum(sizes[i] for i in group), group))
    return [groups[rank :: how.processes] for rank in range(how.processes)]


def _packed(sizes: Sequence[int], how: Cut) -> list[list[int]]:
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    first_fit: list[list[int]] = []
    filled: list[int] = []
    for i in order:
        for number, used in enumerate(filled):
            if used + sizes[i] <= how.tokens:
                first_fit[number].append(i)
                filled[number] += sizes[i]
                break
        else:
            first_fit.append([i])
            filled.append(sizes[i])
    wanted = max(len(first_fit), min(how.processes, len(sizes)))
    wanted += -wanted % how.processes
    even: list[list[int]] = [[] for _ in range(wanted)]
    load = [0] * wanted
    for i in order:
        least = load.index(min(load))
        even[least].append(i)
        load[least] += sizes[i]
    if max(load) > max(how.tokens, max(sizes)):
        even = first_fit
    return [sorted(group) for group in even if group]


def _alike(sizes: Sequence[int], how: Cut) -> list[list[int]]:
    groups: list[list[int]] = []
    for size in sorted(set(sizes)):
        rows = [i for i, other in enumerate(sizes) if other == size]
        most = max(1, how.tokens // size)
        groups += [rows[start : start + most] for start in range(0, len(rows), most)]
    return groups


class Collate:
    """Turns the rows of a step into the passes of this process.

    A row is a dict with `input_ids` and `labels`. The result has `passes`, each the arguments of
    one call of the model, and `items`: answer tokens of the whole step, over all processes.
    """

    def __init__(self, how: Cut) -> None:
        self.how = how

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The passes of this process; see the class."""
        sizes = [len(row["input_ids"]) for row in rows]
        mine = cut(sizes, self.how)[self.how.rank]
        make = self._pack if self.how.packed else self._stack
        return {
            "passes": [make([rows[i] for i in group] or [_FILLER]) for group in mine],
            # The first token of a row is never predicted.
            "items": sum(label != NO_LOSS for row in rows for label in row["labels"][1:]),
        }

    def _pack(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        ids: list[int] = []
        places: list[int] = []
        starts = [0]
        for row in rows:
            ids += row["input_ids"]
            places += range(len(row["input_ids"]))
            starts.append(len(ids))
        at, targets = _answers(rows, starts)
        if fill := -len(ids) % self.how.multiple:
            # A row of its own at the end: nothing looks at it, and it carries no loss.
            ids += [0] * fill
            places += range(fill)
            starts.append(len(ids))
        bounds = torch.tensor(starts, dtype=torch.int32)
        longest = int(bounds.diff().max())
        return {
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([places]),
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
            "answer_at": at,
            "answer_ids": targets,
        }

    def _stack(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        size = len(rows[0]["input_ids"])
        at, targets = _answers(rows, range(0, size * len(rows) + 1, size))
        return {
            "input_ids": torch.tensor([row["input_ids"] for row in rows]),
            "answer_at": at,
            "answer_ids": targets,
        }


def _answers(rows: list[dict[str, Any]], starts: Sequence[int]) -> tuple[Any, Any]:
    """Positions whose prediction carries loss, in the flattened pass, and what they should say."""
    import torch

    at: list[int] = []
    targets: list[int] = []
    for row, start in zip(rows, starts, strict=False):
        for place, label in enumerate(row["labels"][1:]):
            if label != NO_LOSS:
                at.append(start + place)
                targets.append(label)
    return torch.tensor(at, dtype=torch.long), torch.tensor(targets, dtype=torch.long)

"""The order in which examples are seen: shuffled, where it pays with rows of like length together.

The whole order is fixed before the first step by the seed alone, so a run that resumes sees
the very batches that it would have seen, whatever random numbers were drawn in between.
"""

from __future__ import annotations

import random


def plan(
    sizes: list[int], *, epochs: float, step_rows: int, seed: int, alike: bool = True
) -> list[int]:
    """Indices of rows, `step_rows` of them a step; only the last step may have fewer.

    Each epoch is shuffled. With `alike` it is cut into windows of up to 50 steps, at least four an
    epoch where there are that many (as transformers' length-grouped sampler does); a window is
    sorted by length, cut into steps, and the steps are shuffled. Rows left over at an epoch's end
    open the next one. So each row is seen once an epoch, padding is small, and short answers do not
    all come first.

    Args:
        sizes: length of each row, tokens.
        alike: rows of like length in one step; of no use where rows are packed.
        epochs: passes; 2.5 shows each row twice and half of them a third time.
        step_rows: rows a step, accumulation included.
    """
    shuffle = random.Random(seed)
    window = step_rows * max(1, min(50, len(sizes) // (4 * step_rows)))
    total = max(1, round(epochs * len(sizes)))
    order: list[int] = []
    waiting: list[int] = []
    seen = 0
    while seen < total:
        fresh = list(range(len(sizes)))
        shuffle.shuffle(fresh)
        fresh = fresh[: total - seen]
        seen += len(fresh)
        rows = waiting + fresh
        whole = len(rows) - len(rows) % step_rows
        waiting = rows[whole:]
        steps = []
        for start in range(0, whole, window):
            part = rows[start : min(start + window, whole)]
            if alike:
                part.sort(key=lambda i: sizes[i])
            steps += [part[i : i + step_rows] for i in range(0, len(part), step_rows)]
        shuffle.shuffle(steps)
        order += [index for step in steps for index in step]
    return order + waiting

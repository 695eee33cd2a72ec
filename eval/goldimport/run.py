"""Reading a file of another tool as a gold set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eval.goldimport import inspect_samples, openai_evals, promptfoo
from eval.goldimport.made import Imported, Maker, Options
from ledger.errors import GoldError, UsageError
from ledger.files import write_jsonl
from ledger.gold import load_gold

#: Reads a file of that tool.
FORMATS: dict[str, Callable[[Maker], None]] = {
    "promptfoo": promptfoo.read,
    "inspect": inspect_samples.read,
    "openai-evals": openai_evals.read,
}


def import_gold(
    file: Path,
    form: str,
    to: Path | None = None,
    *,
    options: Options | None = None,
    replace: bool = False,
) -> Imported:
    """Read a file; write the questions as a gold set where there are any.

    Args:
        form: one of `FORMATS`.
        to: the gold set, JSONL; None: nothing is written.
        replace: whether `to` may be there already.

    Raises:
        UsageError: `to` is there.
        GoldError: the file cannot be read, or has nothing to ask in it.
    """
    if to is not None and to.exists() and not replace:
        raise UsageError(
            f"{to} is there already",
            rule="A gold set that judged a version is not written over by accident.",
            remedy="Name another file, or say --replace.",
        )
    maker = Maker(file, options or Options())
    FORMATS[form](maker)
    made = maker.made
    if not made.questions and not made.left_out:
        raise GoldError(f"{file} has no questions")
    if to is not None and made.questions:
        write_jsonl(to, (q.model_dump(mode="json", exclude_defaults=True) for q in made.questions))
        load_gold([to])
    return made

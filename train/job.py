"""What a run trains on: proved examples, what was left out, and every number of the recipe.

All of it is decided before the first step, and follows from the dataset, the base model and the
settings alone. So a run that was cut off finds the same job again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger.dataset import DatasetManifest, Pair
from ledger.errors import DatasetError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.hashing import content_hash
from ledger.settings import Settings
from train import base, data, heldout, trackers
from train.load import load_tokenizer, quiet
from train.recipe import Recipe, model_config, resolve

if TYPE_CHECKING:
    from peft import LoraConfig

# What has no influence on the adapter and may change between an interruption and its resumption.
_NO_RECIPE = {
    *("checkpoint_steps", "report_to", "min_pairs", "device", "gradient_checkpointing"),
    "leave_out_share",
    *("beside_server", "server_share", "drain_seconds", "reserve_gib"),
    # Their product counts: a run that had no room goes on with smaller batches.
    *("batch_size", "accumulation"),
    # How the same sums are computed.
    *("batch_tokens", "packing", "kernels", "processes", "sharded"),
}
# What the second stage has a hash of its own for.
_SECOND = {
    "preference",
    "preference_beta",
    "preference_learning_rate",
    "preference_epochs",
}


class Job(NamedTuple):
    """What one run trains on.

    Attributes:
        folder: of the base model.
        pairs: by row, those that are trained on.
        prepared: their examples, and those that could not be made.
        held: examples of pairs that are not trained on.
        held_out_problems: reason → row id → detail, for held-out pairs that are not in `held`.
        frozen: all pairs of the dataset.
        recipe: the numbers.
        adapter: PEFT's configuration.
        identity: hash of all that shapes the adapter of the first stage.
    """

    settings: Settings
    run_dir: Path
    folder: Path
    manifest: DatasetManifest
    pairs: dict[str, Pair]
    prepared: data.Prepared
    held: list[data.Row]
    held_out_problems: dict[str, dict[str, str]]
    frozen: list[Pair]
    recipe: Recipe
    adapter: LoraConfig
    tokenizer: Any
    identity: str

    @property
    def max_length(self) -> int:
        """Longest example, tokens."""
        return longest(self.settings)

    @property
    def longest_row(self) -> int:
        """Tokens of the longest example."""
        return max(len(row.ids) for row in self.prepared.rows)

    @property
    def replay(self) -> list[data.Row]:
        """Examples of answers that were good already."""
        return [row for row in self.prepared.rows if self.pairs[row.row_id].kind == "replay"]

    @property
    def kinds(self) -> dict[str, int]:
        """How many examples are corrections, and how many replayed good answers."""
        return dict(sorted(Counter(self.pairs[r.row_id].kind for r in self.prepared.rows).items()))

    @property
    def sources(self) -> dict[str, int]:
        """How many examples each source of corrections gave."""
        found = Counter(self.pairs[row.row_id].source for row in self.prepared.rows)
        return dict(sorted(found.items()))

    @property
    def second_identity(self) -> str:
        """Hash of all that shapes the adapter of the second stage."""
        # KTO compares the answers of one batch with each other, so its size counts.
        second = self.settings.train.model_dump(mode="json", include={*_SECOND, "batch_size"})
        rate = self.recipe.preference_learning_rate
        return content_hash("recipe", {"first": self.identity, "second": second, "rate": rate})


def longest(settings: Settings) -> int:
    """Longest example that may be trained on, tokens."""
    return settings.train.max_length or settings.model.max_length


def prepare(
    settings: Settings,
    run_dir: Path,
    folder: Path,
    manifest: DatasetManifest,
    frozen: list[Pair],
    *,
    leave_out: bool,
) -> Job:
    """Prove the examples and decide the recipe.

    Args:
        leave_out: go on without pairs that cannot be trained on, however many they are.

    Raises:
        ConfigError: a setting does not fit; nothing was trained.
        DatasetError: there are too few pairs, or some that cannot be trained on as they were
            served.
    """
    quiet()
    trackers.check(settings.train.report_to)
    # Answers that were voted down say nothing to imitate; a second stage may avoid them.
    answers = [pair for pair in frozen if pair.kind != "disliked"]
    pairs = [pair for pair in answers if pair.split == "train"]
    held = [pair for pair in answers if pair.split == "heldout"][: heldout.MOST]
    wanted = settings.train.min_pairs
    if len(pairs) < wanted:
        raise DatasetError(
            f"the dataset has {len(pairs)} pairs to train on, train.min_pairs asks for {wanted}",
            remedy=f"Collect {wanted - len(pairs)} more corrections, or lower train.min_pairs.",
        )
    from train.lora import lora_config

    template, tokenizer = template_hash(folder), load_tokenizer(folder)
    prepared, held_out = (
        data.prepare(some, tokenizer, longest(settings), template, stop_ids=base.stop_ids(folder))
        for some in (pairs, held)
    )
    unfit = len(pairs) - len(prepared.rows)
    if not prepared.rows or not (leave_out or unfit <= settings.train.leave_out_share * len(pairs)):
        data.refuse(prepared)
    if len(prepared.rows) < wanted:
        raise DatasetError(
            f"{len(prepared.rows)} pairs can be trained on, train.min_pairs asks for {wanted}",
            remedy=f"Collect {wanted - len(prepared.rows)} more corrections, or lower "
            "train.min_pairs.",
        )
    assert prepared.lengths is not None
    recipe = resolve(
        settings.train,
        max_rank=settings.serve.max_lora_rank,
        pairs=len(prepared.rows),
        tokens=prepared.lengths.trained,
        model=model_config(folder),
    )
    identity = content_hash(
        "recipe",
        {
            "dataset": manifest.dataset_id,
            "rows": [row.row_id for row in prepared.rows],
            "base": base_fingerprint(folder),
            "template": template,
            "dtype": settings.model.dtype,
            "train": settings.train.model_dump(mode="json", exclude=_NO_RECIPE | _SECOND),
            "step_rows": settings.train.batch_size * settings.train.accumulation,
            "recipe": [recipe.rank, recipe.alpha, recipe.learning_rate, recipe.epochs],
        },
    )
    return Job(
        settings=settings,
        run_dir=run_dir,
        folder=folder,
        manifest=manifest,
        pairs={pair.row_id: pair for pair in pairs},
        prepared=prepared,
        held=held_out.rows,
        held_out_problems=held_out.problems,
        frozen=frozen,
        recipe=recipe,
        adapter=lora_config(settings, recipe),
        tokenizer=tokenizer,
        identity=identity,
    )

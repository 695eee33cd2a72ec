"""The second stage: preferences from the same rows, on top of the adapter of the first stage.

    dpo  an edit is better than the answer that it replaces: TRL's DPO, loss_type ["sigmoid", "sft"]
    kto  edits and good answers are desirable, replaced answers are not, nor are answers that were
         voted down without an edit: TRL's KTO, each example by itself

The reference is the adapter as the first stage left it, on the base. Prompts and answers are
proved as those of the first stage are (`train.data`); TRL's own tokenising is not used. The
adapter of the first stage stays in RUN/sft, and a run makes one version: the second stage's.
Like any other it must win at the gate. "Principled Fine-tuning of LLMs from User-Edits" (arXiv
2601.19055) finds that neither kind of training wins everywhere.
"""

from train.preference.examples import NOTHING_REJECTED, SAME, Example, Examples, examples
from train.preference.stage import train

__all__ = ["NOTHING_REJECTED", "SAME", "Example", "Examples", "examples", "train"]

"""From frozen pairs to a version in the registry.

    data, render       pairs as token ids, with proof that training sees what serving sends
    job, recipe, lora  what a run trains on, with which numbers; what cannot be served is refused
    sft, trainer       LoRA with TRL, interrupted and resumed at will
    looks, heldout,
    divergence         when to stop, what was learned, how far it went from the base
    preference         a second stage on edits and votes
    report, plot,
    trackers           what a run says to people
    publish, card      the adapter as an immutable version with its model card

`python -m train.sft` and `python -m train.publish` are what a retrain runs.
"""

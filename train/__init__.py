"""From frozen pairs to a version in the registry.

    data, render   pairs as token ids, with proof that training sees what serving sends
    sft, trainer   LoRA with TRL, interrupted and resumed at will
    publish, card  the adapter as an immutable version with its model card

`python -m train.sft` and `python -m train.publish` are what a retrain runs.
"""

"""From accepted corrections to a frozen dataset.

build       the command: prepares, chooses, freezes
candidates  what is known of each correction, found once
near        near-duplicates by MinHash
select      gold, contradictions, caps, replay, split; `plan` reads what it needs
pairs       opens what is new, takes over the rest with its seals
reasons     why a row is not in a dataset
card, diff  what a dataset is, and what changed
export      the same pairs as SFT, DPO or KTO lines (`views`)
"""

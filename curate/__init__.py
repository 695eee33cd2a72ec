"""Which answers deserve eyes, and which corrections become training pairs.

    sweep       looks at what is new: tags by rule and by feedback, users' corrections
    tags        marks rows by hand, by window; `rules` by YAML, `gold_miss` by gold questions
    acceptance/ the policy: which corrections pass, which wait for eyes, which are refused
    clusters/   groups of questions that are alike, counted over time
    queue       the rows that wait; `decisions` what people say about them, `undo` takes it back
    review/     the web page on all of this; `terminal` the queue without a browser
    distill/    corrections by a stronger model
    imports/    rows and pairs from elsewhere
    build       freezes a dataset: `candidates` looks at each correction once, `near` finds
                near-duplicates, `select` applies gold, contradictions, caps, replay and split
    card, diff  what a dataset is, and what changed
    export      the same pairs as SFT, DPO or KTO lines (`views`)

Meets the other stages in the ledger only. Nothing here loads a model.
"""

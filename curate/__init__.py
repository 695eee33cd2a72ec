"""Which answers deserve eyes, and which corrections become training pairs.

    tagging/    marks on rows: by hand, by rule, by feedback, by the sweep over what is new
    acceptance/ the policy: which corrections pass, which wait for eyes, which are refused
    clusters/   groups of questions that are alike, counted over time
    judging/    the rows that wait, and what people say about them
    review/     the web page on all of this
    distill/    corrections by a stronger model
    imports/    rows and pairs from elsewhere
    datasets/   choosing among what was accepted, freezing it, saying what changed
    estimates   shares and means of all answers, with intervals

Meets the other stages in the ledger only. Nothing here loads a model.
"""

"""Which answers deserve eyes, and which corrections become training pairs.

    tags         marks rows: by rule, by users' feedback, by hand
    corrections  what an operator says about a row
    queue        the rows to look at, and the loop that shows them in a terminal
    build        freezes the accepted corrections of an alias as a dataset
    export       the same pairs in the form of OpenAI's chat fine-tuning

Meets the other stages in the ledger only. Nothing here loads a model.
"""

"""Numbered changes of the schema, applied when a ledger is opened.

A test checks that the migrations end in the tables of `ledger.database.tables`, and that HEAD is
the last of them.
"""

HEAD = "0004"

"""Rows and pairs from elsewhere: OpenAI's chat JSONL, Langfuse, TensorZero, CSV.

    summary = imported(settings, store, Path("pairs.jsonl"), "support")

`read` turns a file into records, a module for each format turns a record into an `items.Item`,
and `write` puts those into the ledger: redacted, sealed and hashed like what the server logs.
Covers no download: the file is made with the other system's own export.
"""

from curate.imports.run import FORMATS, Mode, Summary, imported

__all__ = ["FORMATS", "Mode", "Summary", "imported"]

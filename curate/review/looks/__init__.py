"""What the pages show, read from the ledger and the registry. Covers no HTML and writes nothing."""

"""Measurements on this machine: what capturing costs, and versions changing under load.

Each runs as `python -m benchmarks.NAME [--json FILE]` from the repository's root; their results
are kept in RESULTS.md.
"""

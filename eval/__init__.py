"""Judging a version: gold questions asked to the live server, scored, compared, decided.

Speaks to models over HTTP alone, with the `openai` client. Import with `from eval.gate
import …`: `import eval` would hide a builtin.
"""

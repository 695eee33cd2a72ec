"""The keys: who somebody is, what text is sealed with, and what wraps that."""

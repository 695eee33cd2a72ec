"""The ground: what happened, and what is live.

Knows nothing of models: no torch, no vllm, no FastAPI is imported here. The four stages
(`serve`, `curate`, `train`, `eval`) meet only in what this package stores.
"""

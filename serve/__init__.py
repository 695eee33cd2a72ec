"""The vLLM endpoint plugin: route, capture, feedback, adapters, launch.

Only `plugin` and `adapters` know vLLM; the rest could stand in front of another engine.
"""

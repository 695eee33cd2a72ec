"""The roof: commands, retrain, rollout, demo. Ties the four stages together."""

__version__ = "0.1.0"

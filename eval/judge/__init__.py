"""A judge between two answers: a model behind any OpenAI-compatible endpoint.

`words` says what it is asked and what its answers mean, without a network; `ask` asks. Both
orders are asked, and a preference that changes with the order is a tie.
"""

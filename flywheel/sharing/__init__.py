"""Versions pushed to and pulled from a place that others see: the Hugging Face hub, or a bucket.

    <place>/<alias>/v<N>/…              the version's files as they are, its manifest last
    <place>/<alias>/.signatures/v<N>.sig  its signature, where it has one
    README.md                           the card of the last one pushed, with its scores

`places` knows what fsspec reads, `hub` the hub, `push` and `pull` what goes there and what may
come in, `card` the card.
"""

from flywheel.sharing.card import rendered
from flywheel.sharing.pull import Pulled, pull
from flywheel.sharing.push import Pushed, push
from flywheel.sharing.which import place_of

__all__ = ["Pulled", "Pushed", "place_of", "pull", "push", "rendered"]

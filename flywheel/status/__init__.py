"""`flywheel status`: what is live, tried, noticed, waited for and spent, on one screen."""

from flywheel.status.gather import status
from flywheel.status.screen import status_text

__all__ = ["status", "status_text"]

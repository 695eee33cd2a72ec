"""Somebody wants this process to end. Whoever replaces the handlers of signals for a while, as a
step of a retrain does, says so here, so that what goes on afterwards (`flywheel loop`) stops too.
"""

from __future__ import annotations

import threading

#: Set by SIGTERM and Ctrl-C; never cleared.
ASKED = threading.Event()

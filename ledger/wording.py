"""Marks in an answer's wording that corrections and gates both look for: refusals, control tokens.

Patterns, so they know the usual ways of saying it in some languages and no others.
"""

from __future__ import annotations

import re

# The first person who declines, near the start. "We cannot refund this" is an answer.
_REFUSALS = re.compile(
    r"""
    \bas\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
    | \bi(?:['’]m|\ am)?\ (?:really\ |very\ |so\ )?(?:sorry|afraid)[^.!?\n]{0,40}
      \b(?:can(?:['’]t|not|\ not)|unable|not\ able|won['’]t)
    | \bi\ (?:can(?:['’]t|not|\ not)|won['’]t|will\ not|must\ not)
      \ (?:help|assist|answer|provide|comply|discuss|share|fulfil+|support|engage|with|that|this
      |do\ (?:that|this|so)|say\ (?:that|this|so))\b
    | \bi\ (?:must|have\ to)\ (?:decline|refuse)\b
    | \bi(?:['’]m|\ am)\ (?:unable|not\ able|not\ allowed)\ to\b
    | \bals\ (?:ki|künstliche\ intelligenz|sprachmodell)\b
    | \b(?:ich|kann|darf)\ (?:kann|darf|ich)\b[^.!?\n]{0,60}\bnicht\b[^.!?\n]{0,30}
      \b(?:helfen|beantworten|weiterhelfen|unterstützen|nachkommen)\b
    | \bje\ (?:suis\ désolée?|ne\ (?:peux|puis))\b[^.!?\n]{0,60}\b(?:pas|aider|répondre)\b
    | \b(?:lo\ siento|no\ puedo)\b[^.!?\n]{0,60}\b(?:no\ puedo|ayudar(?:te|le)?|responder)\b
    | \b(?:mi\ dispiace|non\ posso)\b[^.!?\n]{0,60}\b(?:non\ posso|aiutar(?:ti|la|e)?|rispondere)\b
    | \b(?:desculpe|sinto\ muito|não\ posso)\b[^.!?\n]{0,60}\b(?:não\ posso|ajudar|responder)\b
    | \bik\ kan\b[^.!?\n]{0,60}\bniet\ (?:helpen|beantwoorden)\b
    | (?:抱歉|对不起|很遗憾)[^。！？\n]{0,30}(?:无法|不能|不可以)
    | (?:申し訳|すみません|ごめんなさい)[^。！？\n]{0,40}(?:できません|できかねます|お答えできない)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REFUSES_WITHIN = 300  # characters

CONTROL = re.compile(
    r"<\|[a-z_]{2,32}\|>|<｜[^｜\n]{2,32}｜>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>"
)


def refuses(text: str) -> bool:
    """Whether an answer declines to answer, in its first characters."""
    return _REFUSALS.search(text[:_REFUSES_WITHIN]) is not None


def has_control_tokens(text: str) -> bool:
    """Whether an answer has marks of a chat template in it."""
    return CONTROL.search(text) is not None

"""Secrets: keys of known prefixes, JWTs, private key blocks, and what "password:" announces.

At `high` also every long token that looks random: hashes, UUIDs, session ids. A secret without
a prefix, an announcement or a random look ("the code word is sunflower") is not found.
"""

from __future__ import annotations

import re

from ledger.redact.contact import Found
from ledger.redact.fold import WORDS

# What the makers of these keys document. Longest names need not come first: `startswith`.
PREFIXES = (
    b"AKIA", b"ASIA", b"AIza", b"ya29", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_",
    b"github_pat_", b"glpat-", b"gldt-", b"glrt-", b"xoxb-", b"xoxp-", b"xoxa-", b"xoxr-", b"xoxs-",
    b"xapp-", b"sk-", b"sk_live_", b"sk_test_", b"rk_live_", b"rk_test_", b"pk_live_", b"whsec_",
    b"hf_", b"npm_", b"pypi-", b"dop_v1_", b"doo_v1_", b"shpat_", b"shpss_", b"shpca_", b"sq0atp-",
    b"sq0csp-", b"AGE-SECRET-KEY-1", b"gsk_", b"xai-", b"r8_", b"dckr_pat_", b"lin_api_", b"NRAK-",
    b"PMAK-", b"pplx-", b"nvapi-", b"tvly-", b"figd_", b"sntrys_", b"glsa_", b"EAAC", b"ATATT3",
    b"rubygems_", b"hvs", b"dapi", b"secret_", b"key-", b"lsv2_", b"vcp_", b"fo1_", b"phc_",
)  # fmt: skip
_LEAST = 16  # characters; no key of a known prefix is shorter
_RUN = b"a" * _LEAST
_JWT = re.compile(rb"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+){0,3}")
_DOTTED = re.compile(rb"(?:\.[\w-]{6,})*")  # SG.xx.yy, ya29.xx, hvs.xx
_BASE64_REST = re.compile(rb"(?:[+/][\w+/]*[0-9+][\w+/]*)?={0,2}")

_BLOCK, _BLOCK_END = b"-----BEGIN", re.compile(rb"-----END[A-Z ]{0,40}-{0,5}")
_LONGEST_BLOCK = 20_000  # characters
_BLOCK_REST = re.compile(rb"[A-Z ]{0,40}-{0,5}[\w+/=\r\n-]*")  # of one that was cut off

# The words that announce a secret, looked for one by one: that is quicker than one pattern.
_WORDS = (
    b"pass", b"pwd", b"secret", b"token", b"api", b"private", b"access", b"kennwort", b"contrase",
    b"senha", b"wachtwoord", b"credential",
)  # fmt: skip
_MARKED = re.compile(
    rb"(?:(?:pass(?:word|wd|wort|phrase|code)?|pwd|kennwort|contrase[^\s]{1,2}a|senha|wachtwoord"
    rb"|credentials?|secret|token)(?:[_ -]?(?:access)?[_ -]?(?:key|token|secret))?"
    rb"|(?:api|private|access)[_ -]?(?:access[_ -]?)?(?:key|token|secret))"
    rb"(?: (?:for|to|of|zum|de) [\w ]{1,24}?)?"
    rb"(?P<quote>\\{0,2}[\"'`]?) {0,2}(?P<sign>[:=]{1,2}>?|=>|\b(?:is|ist|es|est)\b:?)"
    rb" {0,2}(?P<open>(?:b|r|f)?\\{0,2}[\"'`]|)(?P<value>[^\s\"'`\\,;<>\[\]{}()]{4,200})"
)
_HEADER = re.compile(
    rb"(?:bearer|authorization\\?[\"']?: ?\\?[\"']?\w{1,10}) {1,2}(?P<value>[\w.~+/=-]{12,})"
)
_CODE = re.compile(
    rb"(?<![a-z])(?:pin|cvv2?|cvc2?)(?: ?(?:code|number|nummer))?\b(?: (?:is|ist|es|est))?"
    rb"[ :=#]{1,3}(?P<value>\d{3,8})(?![\w.,]\d|\w)"
)
_NO_VALUE = frozenset(
    b"none null true false undefined string text required optional empty hidden redacted missing "
    b"invalid wrong incorrect correct expired must should will your their this that these please "
    b"which what with from need needs cannot reset forgotten changed set not weak strong same "
    b"bytes object".split()
)
_LETTER, _DIGIT = re.compile(rb"[A-Za-z]"), re.compile(rb"[0-9]")
_NOT_WORDY = re.compile(rb"[0-9]|[^\w.,!?:;'-]|[a-z][A-Z]")
_MIXES = re.compile(rb"[0-9][A-Za-z]|[A-Za-z][0-9]")
_HEX_ONLY = re.compile(rb"[0-9a-fA-F-]+")


def secrets(folded: bytes, lower: bytes, high: bool) -> list[Found]:
    """Every secret; spans may overlap."""
    found: list[Found] = []
    if _BLOCK in folded:
        found += _blocks(folded)
    found += _announced(folded, lower, high)
    shape = folded.translate(WORDS)
    start = shape.find(_RUN)
    if start >= 0:
        found += _tokens(folded, shape, start, high)
    return found


def _blocks(folded: bytes) -> list[Found]:
    found = []
    start = folded.find(_BLOCK)
    while start >= 0:
        after = start + len(_BLOCK)
        if b"PRIVATE KEY" in folded[after : after + 40]:
            last = folded.find(b"-----END", after, after + _LONGEST_BLOCK)
            rest = _BLOCK_END.match(folded, last) if last >= 0 else _BLOCK_REST.match(folded, after)
            after = rest.end() if rest is not None else after
            found.append(Found(start, after, "SECRET"))
        start = folded.find(_BLOCK, after)
    return found


def _announced(folded: bytes, lower: bytes, high: bool) -> list[Found]:
    found = []
    for word in _WORDS:
        place = lower.find(word)
        while place >= 0:
            match = _MARKED.match(lower, place)
            if match is not None and (span := _value(match, folded, high)) is not None:
                found.append(span)
                place = span.end - 1
            place = lower.find(word, place + 1)
    for words, pattern in (
        ((b"bearer", b"authorization"), _HEADER),
        ((b"pin", b"cvv", b"cvc"), _CODE),
    ):
        for word in words:
            place = lower.find(word)
            while place >= 0:
                match = pattern.match(lower, place)
                if match is not None and _NOT_WORDY.search(folded, *match.span("value")):
                    found.append(Found(*match.span("value"), "SECRET"))
                    place = match.end() - 1
                place = lower.find(word, place + 1)
    return found


def _value(match: re.Match[bytes], folded: bytes, high: bool) -> Found | None:
    """What stands behind "password:", where it is one rather than a word of the sentence."""
    start, end = match.span("value")
    value = folded[start:end].rstrip(b".,!?:")
    if len(value) < 4 or value.lower() in _NO_VALUE:
        return None
    if folded[end : end + 1] == b"(" or value[:1] in b"$%*" or value.startswith(b"os."):
        return None  # code that reads it from elsewhere, or asterisks
    said = match["sign"][:1].isalpha()
    if said and match.group().startswith(b"pass "):
        return None  # "the pass is 2000 m high"
    if _NOT_WORDY.search(value) is None and (said or not (high or match["open"])):
        return None  # letters only: "the password is wrong", "password: see below"
    return Found(start, start + len(value), "SECRET")


def _tokens(folded: bytes, shape: bytes, start: int, high: bool) -> list[Found]:
    found, length = [], len(folded)
    while start >= 0:
        # The run's end: everything that is not `a` from here on is cut off in steps.
        end, step = start + _LEAST, 64
        while end < length:
            piece = shape[end : end + step]
            kept = len(piece) - len(piece.lstrip(b"a"))
            end += kept
            if kept < len(piece):
                break
            step *= 2
        span = _token(folded, start, end, high)
        if span is not None:
            found.append(span)
            end = span.end
        start = shape.find(_RUN, end)
    return found


def _token(folded: bytes, start: int, end: int, high: bool) -> Found | None:
    """A known key, or at `high` a random-looking one, at a run of word characters."""
    dot = folded.rfind(b".", max(0, start - 8), start)
    if (dot >= 0 and folded[dot - 2 : dot] == b"SG") or folded[dot - 3 : dot] == b"hvs":
        rest = _DOTTED.match(folded, end)
        return Found(
            dot - (2 if folded[dot - 1] == 0x47 else 3), rest.end() if rest else end, "SECRET"
        )
    run = folded[start:end]
    if run.startswith(b"eyJ"):
        jwt = _JWT.match(folded, start)
        if jwt is not None:
            return Found(start, jwt.end(), "SECRET")
    if run.startswith(PREFIXES) and _looks_like_a_key(run):
        rest = _DOTTED.match(folded, end)
        return Found(start, rest.end() if rest is not None else end, "SECRET")
    if high and len(run) <= 4096 and _looks_random(run, 18):
        rest = _BASE64_REST.match(folded, end)
        return Found(start, rest.end() if rest is not None else end, "TOKEN")
    return None


def _looks_like_a_key(run: bytes) -> bool:
    """Whether something of a known prefix is a key rather than a name that begins alike."""
    longest = max(run.replace(b"_", b"-").split(b"-"), key=len)
    if len(longest) < 12:
        return False
    return any(char in b"0123456789" for char in longest) or not (
        longest.islower() or longest.isupper()
    )


def _looks_random(run: bytes, least: int) -> bool:
    """Whether letters and digits are mixed as in a hash or a key, not as in a name.

    A name changes between letters and digits at its ends ("llama3-8b-instruct-2024"); a random
    token of 20 characters does so about five times, a hash about nine.
    """
    if len(run) < least or not (_DIGIT.search(run) and _LETTER.search(run)):
        return False
    bare = run.replace(b"-", b"").replace(b"_", b"")
    if len(bare) < least - 2:
        return False
    longest = max(map(len, run.replace(b"_", b"-").split(b"-")))
    changes = len(_MIXES.findall(bare))
    if _HEX_ONLY.fullmatch(run):
        return changes >= len(bare) // 8
    return longest >= 10 and changes >= max(2, len(bare) // 12)


_SECRET_KEYS = frozenset(
    {
        "password",
        "passwd",
        "pwd",
        "passphrase",
        "passcode",
        "secret",
        "client_secret",
        "api_key",
        "apikey",
        "access_token",
        "refresh_token",
        "auth_token",
        "bearer_token",
        "authorization",
        "private_key",
        "secret_key",
        "access_key",
    }
)


def is_secret_key(key: object, value: str) -> bool:
    """Whether a JSON key says that the string behind it is a secret.

    A value with a space in it is a description, as in the schema of a tool.
    """
    if not isinstance(key, str) or key.lower().replace("-", "_") not in _SECRET_KEYS:
        return False
    return len(value) > 2 and (" " not in value.strip() or key.lower() == "authorization")

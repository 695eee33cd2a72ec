"""Street addresses, as shapes: a house number beside a word that streets end or begin with.

English, German, Dutch, Scandinavian, French, Spanish, Portuguese, Italian, Polish, Finnish and
Russian words. It finds the street and number, and behind them flats, post codes and one place;
an address without such a word ("Koskikatu" is one, "Broadway 5" is none) is not found.
"""

from __future__ import annotations

import re

from ledger.redact.contact import Found

_NUMBER_FIRST = re.compile(rb"0a?,? [a\xc0]")

# What streets are called in the United States (Postal Addressing Standards) and Britain.
_SUFFIX = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq"
    "|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Way|Circle|Cir|Trail|Trl|Crescent|Cres|Close|Grove"
    "|Gardens?|Mews|Row|Walk|Loop|Alley|Plaza|Turnpike|Expressway|Freeway|Motorway|Route"
    "|Hills?|Parks?|Streets|Roads|Ways|Squares|Avenues|Bypass|Causeway|Corners?|Courts?"
    "|Coves?|Creek|Crossing|Crossroad|Estates?|Extension|Fields?|Ferry|Fords?|Forges?|Forks?"
    "|Glens?|Greens?|Harbors?|Haven|Heights|Highlands|Hollow|Inlet|Islands?|Junctions?|Keys?"
    "|Knolls?|Lakes?|Landing|Manors?|Meadows?|Mills?|Mission|Mountains?|Orchard|Oval|Overpass"
    "|Pass|Passage|Path|Pike|Pines?|Plains?|Points?|Prairie|Ranch|Ridges?|River|Run|Shoals?"
    "|Shores?|Skyway|Springs?|Spurs?|Station|Summit|Throughway|Trace|Track|Trafficway|Tunnel"
    "|Underpass|Unions?|Valleys?|Viaduct|Views?|Villages?|Vista|Walks|Wells?|Canyon|Cape"
    "|Center|Common|Course|Curve|Dale|Dam|Divide|Falls?|Flats?|Forest|Fort|Gateway|Isle|Lodge"
    "|Mall|Mount|Neck|Port|Radial|Ramp|Rapids?|Stream|Stravenue|Brooks?|Branch|Bridge|Burgs?"
    "|Camp|Circles|Cliffs?|Club"
)
_UNIT = (
    r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Fl|Room|Rm|Bldg|Building|No|c/o)\.? ?#?"
    r"[\dA-Z][\w-]{0,5}|,? #\d{1,5})"
)
_PLACE = r"(?:,? (?:[A-Z]{1,2}-?)?\d{4,6}(?:-\d{4})?(?: [A-Z][\w'’-]{1,24})?)"
_CITY = (
    r"(?:[,\n]{1,2} ?[A-Z][\w'’.-]{1,24}(?: [A-Z][\w'’.-]{1,24})?,? [A-Z]{2,3} \d{4,5}(?:-\d{4})?)"
)
_WORD = r"(?:[A-ZÀ-ÞĀ-ſ0-9][\w'’.-]{0,24} )"
_ENGLISH = re.compile(
    rf"\d{{1,6}}[A-Za-z]?,? {_WORD}{{1,4}}(?:{_SUFFIX})\b(?:\.(?=[ ,\n]))?(?: [NSEW]{{1,2}}\b)?"
    rf"(?:{_UNIT}){{0,2}}(?:{_CITY}|{_PLACE})?"
)
_ROMANCE = "rue|avenue|boulevard|bd|place|chemin|allée|impasse|quai|route|cours|passage"
_FRENCH = re.compile(
    rf"\d{{1,5}}(?: ?(?:bis|ter|quater|[A-D]))?,? (?:{_ROMANCE})\.? (?:[\w'’.-]{{1,24}} ?){{1,5}}"
    rf"(?:,? \d{{5}}(?: [A-ZÀ-Þ][\w'’-]{{1,24}})?)?",
    re.IGNORECASE,
)
_BEGINNINGS = frozenset({
    "rua", "r.", "avenida", "av", "av.", "avda", "avda.", "alameda", "travessa", "tv.", "praça",
    "estrada", "quadra", "calle", "c/", "c.", "plaza", "paseo", "camino", "carretera", "ctra.",
    "pasaje", "cuesta", "glorieta", "rambla", "ronda", "carrer", "via", "viale", "piazza",
    "corso", "largo", "vicolo", "contrada", "borgo", "strada", "ulica", "ul", "ul.", "aleja",
    "al.", "plac", "pl.", "os.", "straße", "strasse", "улица", "ул", "ул.", "проспект", "пр.",
    "пр-т", "площадь", "пер.", "набережная", "наб.", "бульвар", "бул.", "шоссе", "ш.", "алл.",
    "вулиця", "провулок", "rue", "avenue", "chemin", "jalan", "jl", "jl.", "gang", "gg.",
    "bulevardul", "aleea", "soseaua", "drumul", "intrarea",
})  # fmt: skip
_ENDINGS = (
    "straße", "strasse", "str.", "gasse", "weg", "platz", "allee", "ufer", "damm", "ring",
    "straat", "laan", "gracht", "plein", "kade", "dijk", "gatan", "vägen", "gata", "väg", "gate",
    "veien", "gade", "vej", "allé", "katu", "kuja", "utca", "út", "tér", "caddesi", "cad.",
    "sokak", "boulevard", "singel", "steeg", "dreef", "hof", "plassen", "bakken", "stræde",
    "stigen", "torget", "gränd", "tie", "bulevardi", "tänav", "maantee", "puiestee", "polku",
    "tori", "ulice", "třída", "náměstí", "iela", "gatvė", "ringen", "vollen", "baan", "pad",
)  # fmt: skip
_HOUSE = re.compile(
    r"\d{1,5}(?: ?[a-zA-Z](?![\w']))?(?: ?[-/] ?\d{1,4}[a-zA-Z]?)?"
    r"(?:,? {1,2}(?:кв|д|к|корп|стр|lok|m|apt|ap|app|appartamento|int|interno|piano|piso|puerta"
    r"|bloco|bl|sc|casa|floor|apartado|suite)\.? ?\d{1,4}){0,3}"
    rf"(?:{_PLACE})?",
    re.IGNORECASE,
)
_LAST_WORDS = re.compile(r"[^\s\x00\[\]()<>{}\"|;]+")
_NUMBER_SIGNS = frozenset(
    {"nº", "n.º", "n°", "n.", "no.", "nr", "nr.", "#", "n", "д.", "буд.", "d."}
)
_SIGNS_LAST = (",", *_NUMBER_SIGNS)
_BOX = re.compile(
    rb"(?:p\.? ?o\.? ?box|postfach|bo\xc0te postale|apartado(?: de correos)?|postboks|postbus)"
    rb"[ :#]{1,3}\d{1,6}(?: ?\d{1,4})?"
)
_BOX_WORDS = (b"box", b"postfach", b"apartado", b"postb", b"te postale")


def street_addresses(text: str, shape: bytes, lower: bytes) -> list[Found]:
    """Streets with their house numbers; spans may overlap."""
    found = []
    done = 0
    for beside in _NUMBER_FIRST.finditer(shape):
        start = beside.start()
        while start and shape[start - 1] == 0x30 and beside.start() - start < 6:
            start -= 1
        if start < done or (start and shape[start - 1] in b"a0_.,-/:"):
            continue
        match = _ENGLISH.match(text, start) or _FRENCH.match(text, start)
        if match is not None:
            found.append(Found(start, match.end(), "ADDRESS"))
            done = match.end()
    done, space = 0, shape.find(b" 0")
    # Whether any street may begin with such a word; most texts have none.
    begins = space >= 0 and not _BEGINNINGS.isdisjoint(_words(text.lower()))
    while space >= 0:
        if space > done and shape[space - 1] in b"a.,\xc0\xc1\xc2":
            low = max(done, space - 48)
            name = text[low:space].lower()
            if (
                name.endswith(_ENDINGS)
                or name.endswith(_SIGNS_LAST)
                or (begins and not _BEGINNINGS.isdisjoint(_words(name)))
            ):
                span = _street_before(text, low, space, space + 1)
                if span is not None:
                    found.append(span)
                    done = span.end
        space = shape.find(b" 0", space + 2)
    if any(word in lower for word in _BOX_WORDS):
        found += [Found(*match.span(), "ADDRESS") for match in _BOX.finditer(lower)]
    return found


def _words(lower: str) -> list[str]:
    return lower.replace('"', " ").replace("(", " ").replace("[", " ").split()


def _street_before(text: str, low: int, end: int, number: int) -> Found | None:
    """The street whose name ends at `end`, before the house number at `number`."""
    words = list(_LAST_WORDS.finditer(text, low, end))[-6:]
    if words and words[-1].group().lower() in _NUMBER_SIGNS:
        del words[-1]
    if not words:
        return None
    last = words[-1].group().rstrip(",").lower()
    start = -1
    if last in _ENDINGS:  # a word of its own: Siciliens Allé, Prager Straße
        if len(words) > 1 and words[-2].group()[0].isupper():
            start = words[-2].start()
    elif last.endswith(_ENDINGS) and words[-1].group()[0].isupper():
        start = words[-1].start()
    if start < 0:
        for word in words[:-1]:
            if word.group().lower() in _BEGINNINGS and words[-1].group()[0].isupper():
                start = word.start()
                break
    if start < 0:
        return None
    house = _HOUSE.match(text, number)
    return Found(start, house.end(), "ADDRESS") if house is not None else None

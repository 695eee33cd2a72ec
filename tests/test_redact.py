"""Redaction: what is hidden, what stays, at both levels."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from flywheel.retrain.folder import NAME
from ledger.redact import iban_valid, luhn_valid, redact_text
from ledger.redact.fold import fold
from ledger.redact.scan import scan

OUTSIDE = Path(__file__).resolve().parents[2] / "shared/data/presidio_synth_v2.json"

EMAILS = [
    "ada@example.com",
    "ada.lovelace+news@mail.sub.example.co.uk",
    "o'brien@example.ie",
    "100%_sure-9@example.museum",
    "żółw@przykład.pl",
    "用户@例子.中国",
    "jose\u0301@exa\u0301mple.com",  # accents as characters of their own
    "ada@xn--bcher-kva.example",
    "A" * 64 + "@example.org",
    "ada＠example．com",
    "root@192.0.2.17",
    "ada@[192.0.2.17]",
    "ada%40example.com",
    "ada [at] example [dot] com",
    "ada(at)example.com",
    "ada at example dot co dot uk",
]
CARDS = [
    "4111111111111111",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "4111\u00a01111\u00a01111\u00a01111",
    "4111\u200b1111\u200b1111\u200b1111",
    "４１１１ １１１１ １１１１ １１１１",
    "5500.0000.0000.0004",
    "3782 822463 10005",
    "30569309025904",
    "6011 0009 9013 9424",
    "4222222222222",
    "6304000000000000000",
    "3530 1113 3330 0000",
    "2223 0031 2200 3222",
    "180016070420458",
]
IBANS = [
    "DE89370400440532013000",
    "DE89 3704 0044 0532 0130 00",
    "GB82 WEST 1234 5698 7654 32",
    "gb82west12345698765432",
    "FR14 2004 1010 0505 0001 3M02 606",
    "NO93 8601 1117 947",
    "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    "NL91-ABNA-0417-1643-00",
    "be68 5390 0754 7034",
    "CH93 0076 2011 6238 5295 7",
    "PL61 1090 1014 0000 0712 1981 2874",
    "SA03 8000 0000 6080 1016 7519",
    "BR18 0036 0305 0000 1000 9795 493C 1",
    "ES91.2100.0418.4502.0005.1332",
]
SSNS = ["078-05-1120", "078 05 1120", "078.05.1120"]
CLEAR_PHONES = [
    "+1 202-555-0173",
    "(202) 555-0173",
    "202.555.0173",
    "1-800-555-0199",
    "001-202-555-0173x123",
    "(202)555-0173 ext. 45",
    "+44 (0)20 7946 0958",
    "020 7946 0958",
    "+49 30 901820",
    "0301/234567",
    "(+49) 30 / 1234567",
    "0049 30 123456-78",
    "+33 6 12 34 56 78",
    "06\u00a012\u00a034\u00a056\u00a078",
    "06.12.34.56.78",
    "+39 06 698 12345",
    "+34 912 34 56 78",
    "+41 44 668 18 00",
    "+45 32 12 34 56",
    "+48 22 123 45 67",
    "+7 (495) 123-45-67",
    "+81 3-1234-5678",
    "090\u20111234\u20115678",
    "+86 138 1234 5679",
    "+91 98765 43210",
    "+55 (11) 91234-5678",
    "+61 2 9876 5432",
    "+27 21 123 4567",
    "+234 803 123 4567",
    "+971 50 123 4567",
    "+966 50 123 4567",
    "+4930901820123",
    "＋４９ ３０ ９０１８２０",
    "\u202a+49 30 901820\u202c",
]
ANY_PHONES = ["555-0173", "13812345678", "٠٥٠١٢٣٤٥٦٧", "12 34 56 78", "98765 43210", "2-1234567"]
IPS = [
    "203.0.113.7",
    "2001:db8::8a2e:370:7334",
    "2001:0db8:0000:0000:0000:ff00:0042:8329",
    "fe80::1ff:fe23:4567:890a%eth0",
    "::ffff:192.0.2.128",
    "64:ff9b::192.0.2.33",
]
MACS = ["00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e"]
IDS = [
    "RSSMRA85T10A562S",
    "12345678Z",
    "X1234567L",
    "AB123456C",
    "AB 12 34 56 C",
    "131052-308T",
    "390.533.447-05",
]
SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_" + "aB3dE5fG7hJ9" * 3,
    "sk-proj-" + "T3Blbk-FJ8s9dK2mQ4x" * 2,
    "sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "xox" + "b-123456789012-abcDEF123ghiJKL456",
    "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "glpat-" + "xYz12AbC34dEf56GhI78",
    "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ123456",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9",
]
AROUND = ["{}", "Mine is {}.", "({})", "a: {}\nb", "«{}», yes", '"{}"', '{{"x":"\\n{}"}}']
BOTH = [
    *(("EMAIL", value) for value in EMAILS),
    *(("CARD", value) for value in CARDS),
    *(("IBAN", value) for value in IBANS),
    *(("SSN", value) for value in SSNS),
    *(("PHONE", value) for value in CLEAR_PHONES),
    *(("MAC", value) for value in MACS),
    *(("ID", value) for value in IDS),
    *(("SECRET", value) for value in SECRETS),
]
HIGH_ONLY = [*(("PHONE", value) for value in ANY_PHONES), *(("IP", value) for value in IPS)]


@pytest.mark.parametrize(
    ("level", "kind", "value"),
    [("high", *case) for case in BOTH + HIGH_ONLY] + [("balanced", *case) for case in BOTH],
)
def test_the_value_goes_and_the_text_stays(level, kind: str, value: str) -> None:
    for around in AROUND:
        # Marks of direction round a number may stay, and a bracket beside it may be read as its.
        expected = around.format(f"[{kind}_1]")
        found = re.sub("[\u202a\u202c]", "", redact_text(around.format(value), level))
        assert found in (expected, expected.replace(f"([{kind}", f"[{kind}")), around


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("card 4111 1111 1111 1111 12/27", "card [CARD_1] 12/27"),
        ("4111111111111111 12 27 123 thanks", "[CARD_1] [PHONE_1] thanks"),
        ("order 12 4111111111111111", "order 12 [CARD_1]"),
        ("7 items 4111-1111-1111-1111 x 5 6", "7 items [CARD_1] x 5 6"),
        ("4111111111111111 5500000000000004", "[CARD_1] [CARD_2]"),
        ("Nr12 is DE89370400440532013000 now", "Nr12 is [IBAN_1] now"),
        ("Nr12 to DE89 3704 0044 0532 0130 00 and go on", "Nr12 to [IBAN_1] and go on"),
        ("2024-05-06 030 1234567", "2024-05-06 [PHONE_1]"),
        ("030 1234567 2024-05-06", "[PHONE_1] 2024-05-06"),
        ("since 2024-05-06 1234567", "since 2024-05-06 [PHONE_1]"),
        ("我的电话是13812345678。", "我的电话是[PHONE_1]。"),
        ("我的邮箱ada@example.com谢谢", "我的邮箱[EMAIL_1]谢谢"),
        ("ada@example.com,bob@example.com", "[EMAIL_1],[EMAIL_2]"),
        ("<mailto:ada@example.com>", "<mailto:[EMAIL_1]>"),
        ("'ada@example.com'", "'[EMAIL_1]'"),
        ('"Ada L."@example.com', "[EMAIL_1]"),
        ("tel:+12025550173;ext=5", "tel:[PHONE_1]"),
        ("?mail=ada@example.com&x=1", "?mail=[EMAIL_1]&x=1"),
        ("030 1234567 030 7654321", "[PHONE_1] [PHONE_2]"),
        ("202-555-0173 202-555-0199", "[PHONE_1] [PHONE_2]"),
        ("0171 1234567 / 0171 7654321 / 0171 1234567", "[PHONE_1] / [PHONE_2] / [PHONE_1]"),
        ("http://192.0.2.7:8080/x", "http://[IP_1]:8080/x"),
        ("服务器203.0.113.7的", "服务器[IP_1]的"),
        (
            '{"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}',
            '{"Authorization": "Basic [SECRET_1]"}',
        ),
        ("AWS_SECRET_ACCESS_KEY=abcd/efgh+ijkl1", "AWS_SECRET_ACCESS_KEY=[SECRET_1]"),
        ("[2001:db8::1]:443 and 2001:db8::2/64", "[[IP_1]]:443 and [IP_2]/64"),
        ("IP:2001:db8::8a2e:1, then", "IP:[IP_1], then"),
        ("10.0.0.1 - 10.0.0.255", "[IP_1] - [IP_2]"),
        ("https://ada:hunter2@example.com/x", "https://[SECRET_1]@example.com/x"),
        ("postgresql://ada:s3cr3t@db:5432/x", "postgresql://[SECRET_1]@db:5432/x"),
        ("Authorization: Bearer abc123def456ghi", "Authorization: Bearer [SECRET_1]"),
        ("my password is hunter2, ok?", "my password is [SECRET_1], ok?"),
        ("password: Sommer!23", "password: [SECRET_1]"),
        ('{"password": "hunter2"}', '{"password": "[SECRET_1]"}'),
        ('{\\"api_key\\": \\"abcd1234\\"}', '{\\"api_key\\": \\"[SECRET_1]\\"}'),
        ("export API_TOKEN=abcd-1234-efgh", "export API_TOKEN=[SECRET_1]"),
        ("my PIN is 4821.", "my PIN is [SECRET_1]."),
        ("SSN 078051120", "SSN [SSN_1]"),
        ("I live at 12 Main Street, Apt 4.", "I live at [ADDRESS_1]."),
        ("Sie wohnt in der Hauptstraße 12a.", "Sie wohnt in der [ADDRESS_1]."),
        ("10 rue de la Paix", "[ADDRESS_1]"),
        ("Calle Mayor, nº 5", "[ADDRESS_1]"),
        ("Via Roma 3", "[ADDRESS_1]"),
        ("ul. Długa 5", "[ADDRESS_1]"),
        ("P.O. Box 123", "[ADDRESS_1]"),
        ("id 550e8400-e29b-41d4-a716-446655440000", "id [TOKEN_1]"),
        ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "[TOKEN_1]"),
    ],
)
def test_neighbours_do_not_hide_a_value(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-06",
        "2024/05/06 and 6/5/2024",
        "05.12.2024 10:30",
        "12/31/1999",
        "2024-05-06T12:30:45Z",
        "2024-05-06 12:30:45.123456+02:00",
        "2024-05-06T12:30:45.123456789Z",
        "20240506T123045Z",
        "from 2024-05-06 to 2024-06-07",
        "it is 56.94844494698468 in all",
        "in 2019-2024, 2019–2024 and 1990 - 1995",
        "open 10.30-11.45",
        "version 1.22.3, port 8000, room 4711, 100 000 km",
        "v1.2.3.4 and version 10.0.19045.3803 at 127.0.0.1",
        "at 12:30:45 it was 23.5 degrees, 1,234.56 EUR, 0.8234567891",
        "commit 8f3a1234567890ab, hex 0x1234567890",
        "@home, x@y, a@b.c, @",
        "std::vector<int> a::b 10::20 ::1",
        "no numbers here",
        "",
        "3 of 5; 10%; #42; 2+2=4; §12",
        "[EMAIL_1] [PHONE_12] [CARD_3] password: [SECRET_1]",
        "the password is wrong, your token: none, reset the password",
        "access: public, private: true, api: none; the pass is 2000m high",
        "password = os.environ['PW']; token = get_token(user)",
        "In 2024 we sold 5 chairs in 12 ways on Main Street",
        "get_user_profile_by_id_v2 meta-llama-3-8b-instruct-2024",
    ],
)
@pytest.mark.parametrize("level", ["balanced", "high"])
def test_what_is_nobodys_stays(level, text: str) -> None:
    assert redact_text(text, level) == text


@pytest.mark.parametrize(
    "text",
    [
        "order 1234567, ticket 20240017, ref. 4711-0815-22",
        "ISBN 978-3-16-148410-0 and 0-306-40615-2",
        "1712345678 and 1712345678123",
        "550e8400-e29b-41d4-a716-446655440000",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "sold 1 234 567 for 12.345.678,00 EUR",
        "build 1.2.3.4, OID 1.3.6.1.4.1.311",
        "tracking 1Z999AA10123456784",
        "invoice 2024-000123-77",
    ],
)
def test_balanced_keeps_numbers_that_need_not_be_anybodys(text: str) -> None:
    assert redact_text(text, "balanced") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call me at 1234567", "call me at [PHONE_1]"),
        ("Tel.: 98765 43210", "Tel.: [PHONE_1]"),
        ("电话:13812345678", "电话:[PHONE_1]"),
        ("server 203.0.113.7", "server [IP_1]"),
        ("203.0.113.7:8080", "[IP_1]:8080"),
        ("my card 630427373398", "my card [CARD_1]"),
    ],
)
def test_balanced_trusts_a_word_before_a_number(text: str, expected: str) -> None:
    assert redact_text(text, "balanced") == expected


def test_a_private_key_goes_whole() -> None:
    body = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 2 for _ in range(5))
    for kind in ("", "RSA ", "OPENSSH "):
        name = f"{kind}PRIVATE KEY"
        block = f"-----BEGIN {name}-----\n{body}\n-----END {name}-----"
        for text in (block, block.replace("\n", "\\n"), f"-----BEGIN {name}-----\n{body}"):
            found = redact_text(f"here: {text}\nthat was it?", "balanced")
            assert found.startswith("here: [SECRET_1]")
            assert found.endswith(" was it?")
            assert "MII" not in found


def test_check_digits() -> None:
    for card in CARDS:
        digits = "".join(char for char in card if char.isdigit())
        assert luhn_valid(digits)
        assert not luhn_valid(digits[:-1] + str((int(digits[-1]) + 1) % 10))
    for iban in IBANS:
        assert iban_valid(iban)
        assert not iban_valid(iban[:-1] + ("1" if iban[-1] != "1" else "2"))
    for text in ("", "DE", "not an iban at all", "DE89" + "ü" * 18, "DE89 3704"):
        assert not iban_valid(text)


def test_cards_are_found_in_any_row_of_numbers() -> None:
    """Against trying every stretch of neighbours one by one."""
    draw = random.Random(7)
    for _ in range(1000):
        parts = [
            "".join(draw.choices("0123456789", k=draw.randint(1, 9)))
            for _ in range(draw.randint(1, 8))
        ]
        stretches = (
            "".join(parts[start:end])
            for start in range(len(parts))
            for end in range(start + 1, len(parts) + 1)
        )
        expected = any(13 <= len(s) <= 19 and s[0] != "0" and luhn_valid(s) for s in stretches)
        assert ("[CARD_1]" in redact_text(f"x {' '.join(parts)} x")) == expected


def _luhn(digits: str) -> str:
    return next(digits + last for last in "0123456789" if luhn_valid(digits + last))


# How people write telephone numbers, # a digit. From the numbering plans and habits of each
# country, written down here; none comes from the outside file.
PHONE_FORMATS = {
    "US": "(2##) ###-#### | 2##-###-#### | +1-2##-###-#### | 2##.###.####x### | 1 2## ### ####",
    "DE": "0## ######## | +49(0)## ###### | (0####) ###### | 0### / ### ## ## | +49 ### #######",
    "FR": "0# ## ## ## ## | +33 (0)# ## ## ## ## | +33 # ## ## ## ## | 0#########",
    "GB": "07### ###### | (0###) ### #### | +44 #### ###### | 0#### ###### | +44(0)####-######",
    "IT": "+39 ### ####### | 0## ####### | 3## ### ####",
    "ES": "+34 ### ### ### | 6## ## ## ## | 9########",
    "NL": "06-######## | +31 (0)6 ######## | 0##-#######",
    "PL": "+48 ### ### ### | ### ### ### | (##) ###-##-##",
    "SE": "0##-### ## ## | +46 ## ### ## ## | 070-#######",
    "RU": "8 (9##) ###-##-## | +7 9## ### ## ## | 8 9## ### ####",
    "JP": "0#-####-#### | 090-####-#### | +81-90-####-####",
    "CN": "1########## | +86 1## #### #### | 0##-########",
    "IN": "+91 #####-##### | 9######### | 0###-#######",
    "BR": "(##) 9####-#### | +55 ## #### #### | 0800-###-####",
    "KR": "010-####-#### | +82-10-####-####",
    "AU": "04## ### ### | (0#) #### #### | +61 4## ### ###",
}
CARD_FORMATS = ["####" * 4, "#### #### #### ####", "####-####-####-####", "#### ###### #####"]
CARD_FORMATS += ["#" * length for length in range(13, 20)]


def _filled(draw: random.Random, pattern: str) -> str:
    return re.sub("#", lambda _: draw.choice("0123456789"), pattern)


def test_recall_on_formats_of_many_countries() -> None:
    draw = random.Random(11)
    sentences = ["Please call {} soon.", "It is {}, thanks", "{}", "nr: {}\n", '{{"to": "{}"}}']
    missed = []
    for country, patterns in PHONE_FORMATS.items():
        for pattern in patterns.split(" | ") * 10:
            value = _filled(draw, pattern)
            found = redact_text(draw.choice(sentences).format(value))
            if re.search(r"\d{2}", re.sub(r"\[[A-Z]+_1\]", "", found)):
                missed.append((country, value, found))
    for pattern in CARD_FORMATS * 10:
        digits = draw.choice(["4", "37", "52", "60"])
        digits += _filled(draw, "#" * (pattern.count("#") - 1 - len(digits)))
        number = iter(_luhn(digits))
        value = "".join(next(number) if char == "#" else char for char in pattern)
        found = redact_text(draw.choice(sentences).format(value), "balanced")
        if "[CARD_1]" not in found:
            missed.append(("card", value, found))
    assert missed == []


def test_twice_is_as_once() -> None:
    draw = random.Random(5)
    values = [value for _, value in BOTH + HIGH_ONLY]
    values += ["12 Main Street", "password: hunter2", "2024-05-06", "[PHONE_7]", "call", "x", "12"]
    for level in ("balanced", "high"):
        for _ in range(300):
            text = draw.choice([" ", ", ", "\n", " | "]).join(draw.choices(values, k=6))
            once = redact_text(text, level)
            assert redact_text(once, level) == once


# Measured: every value goes, of 49, 136, 92, 21, 16 and 14.
FLOORS = {
    "EMAIL_ADDRESS": 0.98,
    "CREDIT_CARD": 0.99,
    "PHONE_NUMBER": 0.95,
    "IBAN_CODE": 0.95,
    "US_SSN": 0.95,
    "IP_ADDRESS": 0.95,
}


def test_recall_on_sentences_that_others_wrote() -> None:
    if not OUTSIDE.is_file():
        pytest.skip(f"{OUTSIDE} is not there")
    seen, hidden = Counter[str](), Counter[str]()
    for sentence in json.loads(OUTSIDE.read_text(encoding="utf-8")):
        text = sentence["full_text"]
        covered = {i for s in scan(text, fold(text), high=True) for i in range(s.start, s.end)}
        for span in sentence["spans"]:
            if span["entity_type"] in FLOORS:
                places = range(span["start_position"], span["end_position"])
                seen[span["entity_type"]] += 1
                hidden[span["entity_type"]] += all(i in covered for i in places)
    assert set(seen) == set(FLOORS)
    recall = {kind: hidden[kind] / seen[kind] for kind in FLOORS}
    assert all(recall[kind] >= floor for kind, floor in FLOORS.items()), recall


def test_the_name_of_a_run_can_be_read() -> None:
    draw = random.Random(1)
    for _ in range(500):
        name = time.strftime(NAME, time.gmtime(draw.randrange(1_750_000_000, 2_100_000_000)))
        for alias in ("support", "a", "billing-eu", "gpt4.mini"):
            assert redact_text(f"run {name}-{alias}") == f"run {name}-{alias}"

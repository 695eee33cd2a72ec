"""Prose without personal data for benchmarks/redaction.py: `HARMLESS` full of other numbers,
`PLAIN` as an ordinary conversation.
"""

from __future__ import annotations

PLAIN = """\
Thanks for writing to us. I understand that the delivery was late, and I am sorry for that: the
carrier had a problem with its sorting centre last week, and parcels piled up. Yours has left the
depot this morning and should reach you tomorrow, or the day after at the latest. If you would
rather have your money back, tell me so and I will see to it at once; you need not send anything.
Is there anything else that I can do for you? You could also change the address of the order as
long as it has not been handed to the driver. Many people prefer a shop nearby where they can pick
it up in the evening. Just answer with the name of the town and I will list those that are open.
I could also explain how returns work: put everything back into the box, print the label that is
in your account, and leave it at any counter. We refund what you paid within two weeks.
"""

HARMLESS = [
    "The meeting moved from 2024-05-06 to 2024-06-07, 10:30 to 11:45, in room 4711.",
    "Released 05.12.2023, last changed 12/31/2024 at 23:59:59.123456.",
    "Between 2019 and 2024, and again in 1990-1995, prices rose by 12.5 %, then by 3,75 %.",
    "It costs 1,234.56 EUR, or 12.345.678,00 in all; the old price was $99.95, now $79.",
    "Python 3.11.9, vLLM 0.32.0, CUDA 12.4.1, kernel 6.8.0-45, build 1.22.3.",
    "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 2049-3630.",
    "Order 4711-0815, ticket 20240017, invoice 2024-000123, SKU AB-1234.",
    "The request id is 550e8400-e29b-41d4-a716-446655440000, the commit 8f3a12345678.",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "Pi is 3.14159265358979, e is 2.718281828, a light year 9 460 730 472 580 800 m.",
    "Mount Everest is 8,848.86 m high; 7,900,000,000 people live on 510,072,000 km².",
    "for i in range(1000000): total += i * 0.001  # about 5.0e8",
    "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]; y = {'a': 0x1F, 'b': 1e-9}",
    "The ratio was 16:9 at 1920x1080, later 3840 x 2160 at 59.94 Hz.",
    "Chapter 12, verses 3-7; see pages 101-117 and table 4.2.1.",
    "Take 2 tablets 3 times a day for 10 days; 500 mg each, 30 in a pack.",
    "The train leaves at 8.15, platform 5, coach 23, seats 41 and 42.",
    "HTTP 404 on port 8080 of 127.0.0.1; timeout 30000 ms, 65536 bytes, retry 3 of 5.",
    "Final score 3:1 (2:0), 54321 spectators; he ran 100 m in 9.58 s on 16.08.2009.",
    "GET /api/v2/items?page=3&size=50 returned in 0.0123456 s, etag W/4a-18f.",
    "In section 230(c)(1), title 47, and article 5 of regulation 2016/679.",
    "Boil 250 g pasta in 2 l water with 20 g salt for 8 to 10 minutes at 100 degrees.",
    "Unix time 1712345678 is 2024-04-05T19:34:38Z; in milliseconds 1712345678123.",
    "Model 5-12-400 needs 2 AAA cells of 1.5 V; it weighs 1 250 g and is 30 x 20 x 10 cm.",
]

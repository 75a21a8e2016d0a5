"""Personal data and keys: what must be found, what only looks like it, and that nothing is left."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from touchstone.data.personal import KINDS, count, found, redact_group, redacted
from touchstone.groups import Comparison, Completion, Group, Message, make_group

MANY = hypothesis_settings(max_examples=300, deadline=None)

# Keys are put together here, so that no scanner takes this file for a leak.
PEM = "-----BEGIN {0}PRIVATE KEY-----\n{1}\n-----END {0}PRIVATE KEY-----"
BASE64 = "MIIEpAIBAAKCAQEAr0Zt8c9vJ3k/2xQ+Lw5bVh7nYd1eSgUfTj4mPzKcXo6iRu9q\n" * 3
TRUE: dict[str, list[str]] = {
    "email": [
        "jane.doe@example.com",
        "j+tag@mail.co.uk",
        "JOHN_99%x@sub-domain.example.museum",
        "j\u00f6rg@m\u00fcller.de",
        "a@b.io",
    ],
    "phone": [
        "+1 555-123-4567",
        "+1 (415) 555-0132",
        "+14155550132",
        "+49 (0)30 123456",
        "+49 170 1234567",
        "+44 20 7946 0958",
        "+33 1 23 45 67 89",
        "+86 138 0013 8000",
        "+4930 1234567",
        "(555) 123-4567",
        "(555)123-4567",
        "555-123-4567",
        "555.123.4567",
        "1-800-273-8255",
        "555 123-4567",
        "020 7946 0958",
        "(020) 7946 0958",
        "07700 900123",
        "0170/1234567",
        "030 - 12345678",
        "01 23 45 67 89",
        "138-0013-8000",
    ],
    "credit_card": [
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111111111111111",
        "5555 5555 5555 4444",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "3056 930902 5904",
        "3530111333300000",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 00",
        "DE89370400440532013000",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
    ],
    "us_ssn": ["078-05-1120", "219-09-9999"],
    "ipv4": ["84.23.51.7", "203.0.114.25", "8.26.56.26"],
    "aws_key": [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ASIA" + "Y34FZKBOKMUTVV7A",
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_SECRET_ACCESS_KEY='" + "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    ],
    "github_token": ["ghp_" + "a1B2" * 9, "ghs_" + "Zz9" * 12, "github_pat_" + "11ABCDEFG0_" + "x9" * 30],
    "api_key": ["sk-" + "T3a9" * 12, "sk-proj-" + "aB3_-" * 10, "sk-ant-api03-" + "x7Y-" * 20],
    "slack_token": ["xoxb-" + "123456789012-abcdefABCDEF", "xapp-" + "1-A0123456-9876-abcdef"],
    "google_key": ["AIza" + "SyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"],
    "huggingface_token": ["hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"],
    "jwt": ["eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9"],
    "private_key": [
        PEM.format("", BASE64),
        PEM.format("RSA ", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,3F17\n\n" + BASE64),
        "-----BEGIN " + "OPENSSH PRIVATE KEY-----\\n" + BASE64.replace("\n", "\\n") + "b3BlbnNzaC1rZXkt",
    ],
}

NEAR = [
    # Prices, amounts and dates.
    "It costs $1,234,567.89, or 1 234 567 euros, \u20ac555-123-4567 a year.",
    "On 2020-12-31 at 12:30:45, 31.12.2020, 12/31/2020, from 1939-1945 to 2019-2021, 10-11-2020.",
    "Call me at 10:30 on 12-05-2020. Call 911, or 112. Ring 555.",
    # Versions and sections.
    "Python 3.11.4, v1.2.3.4, version 84.24.31.17, Chrome 91.0.4472.124, section 12.14.3.22 and 4.3.2.1.",
    "Addresses that are nobody's: 127.0.0.1, 192.168.10.20, 10.20.30.40, 255.255.255.0, 999.10.20.30, 1.22.33.44.55",
    # Mathematics.
    "3.14159265358979, 2+12345678=12345680, x = 555-123-4567 = -3690, 10^15, 1.5e10, 17 * 23 = 391, +1.23456789",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16, 100 200 300 400, 123456789012345678901234567890",
    "The population grew from 1234567890 to 7800000000; 5551234567 / 4 and f(555) 123",
    # Books, hashes and identifiers.
    "ISBN 978-3-16-148410-0, 0-306-40615-2, 9783161484100, 978-0-306-40615-7, ISSN 2049-3630",
    "550e8400-e29b-41d4-a716-446655440000, 12345678-1234-1234-1234-123456789012",
    "commit a549edf0123456789abcdef0123456789abcdef01, sha256:" + "0123456789" * 6 + "0123",
    "order 4111 1111 1111 1112, 1234 5678 9012 3456, 4111111111111111000000, DE89 3704 0044 0532 0130 01",
    "arXiv 2401.06080, RFC 2606, DOI 10.1000/182, ticket 000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567",
    "1609459200, 1609459200000, zip 90210-1234, coordinates 52.5200, 13.4050, -122.4194",
    # Words that begin like keys, and addresses that are none.
    "task-based, risk-free-and-simple-to-understand-steps, sk-learn-contrib-package-names-here, hf_hub_download",
    "eyJ is how a token begins. ghp_ and AKIA too. -----BEGIN CERTIFICATE----- and BEGIN PRIVATE KEY are words.",
    "@user, foo@bar, a@b.c, git@github.com:owner/name.git, icon@2x.png, npm i react@17.0.2, x @ y.z",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in TRUE.items() for text in texts])
def test_what_must_be_found_is_found_whole(kind: str, text: str) -> None:
    around = [("", ""), ("My data: ", ", you know."), ("(", ")"), ("**", "**"), ("\n", "\n"), ("'", "'")]
    for before, after in [*around, ("\u6211\u7684", "\u3002")]:
        whole = f"{before}{text}{after}"
        assert [whole[f.start : f.end] for f in found(whole)] == [text], (kind, before)
        assert redacted(whole) == (f"{before}[{kind.upper()}]{after}", Counter({kind: 1}))


def test_every_kind_has_an_example() -> None:
    assert TRUE.keys() == set(KINDS)


@pytest.mark.parametrize("text", NEAR)
def test_what_only_looks_like_it_is_let_be(text: str) -> None:
    assert [(finding.kind, text[finding.start : finding.end]) for finding in found(text)] == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("call me at 5551234567", "call me at [PHONE]"),
        ("my phone number is 555 123 4567.", "my phone number is [PHONE]."),
        ("ring us (555-1234) now", "ring us ([PHONE]) now"),
        ("Tel.: 030 123 45 67", "Tel.: [PHONE]"),
        ("WhatsApp 98765 43210 or mail a@b.io", "WhatsApp [PHONE] or mail [EMAIL]"),
        ("\u7535\u8bdd\uff1a13800138000", "\u7535\u8bdd\uff1a[PHONE]"),
        ("555-123-4567,555-987-6543", "[PHONE],[PHONE]"),
        ("phone=555-123-4567&mail=a@b.io", "phone=[PHONE]&mail=[EMAIL]"),
        ("http://84.23.51.7:8080/x", "http://[IPV4]:8080/x"),
        ("\u8054\u7cfb jane@example.com\u8c22\u8c22", "\u8054\u7cfb [EMAIL]\u8c22\u8c22"),
        ("IBAN:DE89 3704 0044 0532 0130 00 AND BIC", "IBAN:[IBAN] AND BIC"),
    ],
)
def test_what_stands_around_a_number_decides(text: str, clean: str) -> None:
    assert redacted(text)[0] == clean


PARTS = ["+", "-", ".", " ", "@", "/", "(", ")", "[", ":", "\n", "call ", "1", "42", "@x.com", "sk-", "eyJ"]
PIECES = st.sampled_from([*(text for texts in TRUE.values() for text in texts), *NEAR, *PARTS])
NUMBERS = st.from_regex(r"[0-9+@. -]{1,12}", fullmatch=True)
TEXTS = st.lists(PIECES | st.text(max_size=5) | NUMBERS, max_size=12).map("".join)


@given(TEXTS)
@MANY
def test_redacting_twice_changes_nothing_and_nothing_is_found_afterwards(text: str) -> None:
    clean, counts = redacted(text)
    assert found(clean) == []
    assert redacted(clean) == (clean, Counter())
    assert (clean == text) == (not counts)


@given(TEXTS)
@MANY
def test_findings_come_in_order_and_do_not_overlap(text: str) -> None:
    findings = found(text)
    ends = [0, *(finding.end for finding in findings)]
    assert all(0 <= end <= finding.start < finding.end for end, finding in zip(ends, findings, strict=False))
    assert all(finding.kind in KINDS and finding.end <= len(text) for finding in findings)


@given(st.integers(0, 10**15 - 1))
@MANY
def test_cards_are_told_by_their_checksum(number: int) -> None:
    """Of the ten numbers that differ in the last digit, one is a card's (Luhn)."""
    stem = f"4{number:015d}"[:15]
    assert sum(bool(found(f"{stem}{last}")) for last in range(10)) == 1


def make(prompt: str, *texts: str, cluster: str | None = None) -> Group:
    return make_group(
        prompt=[Message("user", prompt)],
        completions=map(Completion, texts),
        comparisons=[Comparison(0, 1, 1, 0)],
        source="test",
        cluster_id=cluster,
    )


def test_groups_are_counted_and_redacted() -> None:
    clean = make("Why?", "Because.", "No.")
    assert count(clean) == Counter()
    assert redact_group(clean)[0] is clean
    texts = ("Write to a@b.io", "a@b.io or 555-123-4567", "No.")
    for cluster in (None, "topic"):
        group, counts = redact_group(make(*texts, cluster=cluster))
        assert counts == count(make(*texts, cluster=cluster)) == Counter(email=2, phone=1)
        assert group == make("Write to [EMAIL]", "[EMAIL] or [PHONE]", "No.", cluster=cluster)


def test_a_finding_does_not_hold_what_was_found() -> None:
    assert "jane" not in repr(found("jane.doe@example.com"))


@pytest.mark.parametrize(
    "unit",
    ["a", "1", "1 ", "+1", "12-", "a.", "a@", "@a.", "sk-", "eyJ-", "eyJa.", "-----BEGIN PRIVATE KEY-----", "DE89",
     "(", "1.", "call 1 ", "4111 ", "xoxb-", "secret_access_key", "AKIA"],
)  # fmt: skip
def test_a_hostile_text_takes_time_in_proportion(unit: str) -> None:
    """Two hundred thousand characters of what begins like a finding: a quadratic rule would take minutes."""
    text = unit * (200_000 // len(unit))
    found(text + "@1234567")

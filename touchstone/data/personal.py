"""Personal data and keys in texts: found, counted, redacted; never printed.

    found(text)                       # [Finding("email", 14, 34)]
    text, counts = redacted(text)     # "Write to [EMAIL]", Counter(email=1)

Rules over spellings, not a reader: names, street addresses and numbers in words are not found. Where a spelling may be
either (ten bare digits), the words before it decide, and without any it is let be: a rule that redacts prices and
equations would take away what people judged. The checksums (Luhn, mod 97) are two lines each, which no library saves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from touchstone.data.hygiene import with_texts
from touchstone.groups import Group

KINDS = (
    "private_key", "jwt", "aws_key", "github_token", "api_key", "slack_token", "google_key", "huggingface_token",
    "email", "iban", "credit_card", "us_ssn", "phone", "ipv4",
)  # fmt: skip
"""What can be found. Where findings overlap, the kind that comes first here is kept."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Where something personal stands: `text[start:end]` is of this kind. It never holds the text itself."""

    kind: str
    start: int
    end: int


def found(text: str) -> list[Finding]:
    """What is personal or secret in a text, from left to right, without overlaps."""
    findings = [Finding(kind, start, end) for kind, start, end in _candidates(text)]
    if len(findings) < 2:
        return findings
    covered = bytearray(len(text))
    separate = []
    for finding in findings:
        span = slice(finding.start, finding.end)
        if not any(covered[span]):
            covered[span] = b"\1" * (finding.end - finding.start)
            separate.append(finding)
    return sorted(separate, key=lambda finding: finding.start)


def redacted(text: str) -> tuple[str, Counter[str]]:
    """The text with `[EMAIL]`, `[PHONE]` and the like in place of each finding, and how many of each kind there were.

    Nothing is found in what comes out, so redacting it again changes nothing.
    """
    counts: Counter[str] = Counter()
    # A finding may hide another one that it touches. Every round replaces some of what people wrote, so rounds end.
    while findings := found(text):
        pieces, done = [], 0
        for finding in findings:
            counts[finding.kind] += 1
            pieces += [text[done : finding.start], f"[{finding.kind.upper()}]"]
            done = finding.end
        text = "".join([*pieces, text[done:]])
    return text, counts


def count(group: Group) -> Counter[str]:
    """How many findings of each kind the group's texts hold, the prompt's counted once."""
    return Counter(finding.kind for text in _texts(group) for finding in found(text))


def redact_group(group: Group) -> tuple[Group, Counter[str]]:
    """The group with every text redacted, and what was replaced; the same object where nothing was found.

    Ids follow as `hygiene.with_texts` says.
    """
    counts: Counter[str] = Counter()
    for text in _texts(group):
        counts.update(redacted(text)[1])
    return (with_texts(group, lambda text: redacted(text)[0]), counts) if counts else (group, counts)


def _texts(group: Group) -> list[str]:
    return [*(message.content for message in group.prompt), *(completion.text for completion in group.completions)]


# Keys. Every quantifier is bounded, or begins only where its run of characters does: no text takes more time than in
# proportion to its length.

_BODY = "[A-Za-z0-9_-]"
_KEYS: tuple[tuple[str, str, tuple[str, ...], re.Pattern[str]], ...] = (
    (
        "private_key",
        "-",
        ("PRIVATE KEY",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?:[^-]|-(?!----)){16,20000}-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"|(?:(?:\s|\\[nr])*[A-Za-z0-9+/=]{16,})+)"  # cut off before its end
        ),
    ),
    ("jwt", ".", (".eyJ",), re.compile(rf"(?<!{_BODY})eyJ{_BODY}{{8,}}\.eyJ{_BODY}{{8,}}\.{_BODY}*")),
    ("aws_key", "A", ("AKIA", "ASIA"), re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])")),
    (
        "aws_key",
        "",
        ("ccess_key", "CCESS_KEY", "ccessKey"),
        re.compile(
            r"(?i:(?:aws_?)?secret_?access_?key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"
        ),
    ),
    (
        "github_token",
        "_",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(r"(?<![A-Za-z0-9])(?:gh[oprsu]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    ),
    # OpenAI's, Anthropic's (sk-ant-) and others' in their manner. A digit tells them from words joined by hyphens.
    ("api_key", "-", ("sk-",), re.compile(rf"(?<![A-Za-z0-9])sk-(?={_BODY}{{0,64}}[0-9]){_BODY}{{20,255}}")),
    (
        "slack_token",
        "-",
        ("xox", "xapp-"),
        re.compile(r"(?<![A-Za-z0-9])(?:xox[abeoprs]|xapp)-(?=[A-Za-z0-9-]{0,64}[0-9])[A-Za-z0-9-]{10,255}"),
    ),
    ("slack_token", "/", ("hooks.slack.com/",), re.compile(r"hooks\.slack\.com/services/[A-Za-z0-9/]{20,80}")),
    ("google_key", "", ("AIza",), re.compile(rf"(?<![A-Za-z0-9])AIza{_BODY}{{35}}")),
    ("huggingface_token", "_", ("hf_",), re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,255}")),
)
"""Kind; a character and then one of several strings that a text must hold for the rule to be tried, which costs a
hundredth of it; the rule. Shapes as the issuers publish them and as gitleaks collects them."""

# Latin letters only: Chinese and Japanese write on after an address without a space. `git@host` is a service, and
# `name@2x.png` a picture for dense screens.
_LATIN = "A-Za-z0-9\u00c0-\u024f"
_EMAIL = re.compile(
    rf"(?<![{_LATIN}._%+-])(?!git@)[{_LATIN}._%+-]{{1,64}}"
    rf"@(?![1-9]x\.)(?:[{_LATIN}-]{{1,63}}\.)+[A-Za-z]{{2,24}}(?![{_LATIN}])"
)

# A number neither begins nor ends inside a word, a price, a formula or a longer chain of numbers.
_BEFORE = r"(?<![\w+^~$\u20ac\u00a3\u00a5])(?<!\d[./*])(?<!\w-)"
_AFTER = r"(?!\w|[./-]\d|[ ]?[%=^\u00b0])"

_IBAN_LENGTHS = {
    country[:2]: int(country[2:])
    for country in re.findall(
        r"\w+",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 "
        "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
        "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
        "SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}
"""Characters of a country's account numbers, of SWIFT's IBAN registry (ISO 13616)."""
# What comes before is looked at last, because that costs most.
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}(?<![A-Za-z0-9].{4})", re.DOTALL)

_CARD = re.compile(
    _BEFORE
    + r"(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{2,7}|3[47]\d{2}([ -]?)\d{6}\2\d{5}|3[068]\d{2}([ -]?)\d{6}\3\d{4})"
    + _AFTER,
    re.ASCII,
)
_CARD_ISSUERS = re.compile(
    r"4(?:\d{15}|\d{18})|(?=\d{16}\Z)(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)\d+|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|(?=\d{16,19}\Z)(?:6011|65|64[4-9]|62|35)\d+",
    re.ASCII,
)
"""First digits and lengths of Visa; Mastercard; American Express; Diners; Discover, UnionPay and JCB."""

_SSN = re.compile(_BEFORE + r"(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}" + _AFTER, re.ASCII)

_PHONE = re.compile(
    _BEFORE + r"(?:"
    # International: a plus, the country, and groups.
    r"\+[1-9]\d{0,5}(?:[ .-]\d{1,10}|[ .-]?\(\d{1,5}\)\d{0,10}){1,6}|\+[1-9]\d{9,14}"
    # North America.
    r"|(?:1[ .-]?)?\([2-9]\d{2}\)[ .-]?\d{3}[ .-]\d{4}"
    r"|(?:1[ -])?[2-9]\d{2}-\d{3}-\d{4}|(?:1\.)?[2-9]\d{2}\.\d{3}\.\d{4}|[2-9]\d{2} \d{3}-\d{4}"
    # A trunk zero: Britain, Germany, France.
    r"|\(0[1-9]\d{1,4}\)[ ]?\d{3,4}[ -]?\d{3,4}|0[1-9]\d{1,3}[ -]\d{3,4}[ -]\d{3,4}|07\d{3} \d{6}"
    r"|0[1-9]\d{1,3}(?:[ ]?[/-][ ]?| )\d{6,8}|0[1-9](?P<french>[ .-])\d{2}(?:(?P=french)\d{2}){3}"
    # China's mobiles.
    r"|1[3-9]\d(?P<chinese>[ -])\d{4}(?P=chinese)\d{4}"
    r")" + _AFTER,
    re.ASCII,
)
# Any other, bare digits too, where the words before it say so.
_NAMED_PHONE = re.compile(_BEFORE + r"(?:\(\d{1,5}\)|\d)[\d ()./-]{5,20}\d" + _AFTER, re.ASCII)
_PHONE_WORD = re.compile(
    r"(?:\b(?:tele)?(?:phone|fon)|\btel|\bmobile|\bcell|\bfax|\bcall|\bdial|\bring|\bsms|\bwhatsapp|\bhotline"
    r"|\u7535\u8bdd|\u624b\u673a|\u96fb\u8a71)"  # telephone, mobile; telephone in Japanese
    r"(?: ?(?:number|no|nr|me|us|him|her|them|at|is|or))*[ .:#(\uff1a-]{0,3}\Z",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}", re.ASCII)
_DECIMAL = re.compile(r"\+\d+\.\d+", re.ASCII)

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(_BEFORE + rf"{_OCTET}(?:\.{_OCTET}){{3}}(?!\w|[.-]\w)", re.ASCII)
_VERSION_WORD = re.compile(r"(?:\bv|\bver|version|release|build|section|chapter|\u00a7)[ .:]{0,2}\Z", re.IGNORECASE)

_PARTING = b" ()./+-"
_CLUSTER = re.compile(r"[0-9][0-9 ()./+-]{4,}[0-9]")
_SHAPE = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_SIX_DIGITS = b"000000"
"""What a text must hold once its digits are zeros and what parts them is gone: no number of any kind is shorter."""


def _candidates(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of all that a rule accepts, in the order of `KINDS`; they may overlap."""
    for kind, sign, needed, pattern in _KEYS:
        if sign in text and any(part in text for part in needed):
            for match in pattern.finditer(text):
                yield kind, match.start(), match.end()
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield "email", match.start(), match.end()
    if _SIX_DIGITS not in text.encode("utf-8", "surrogatepass").translate(_SHAPE, _PARTING):
        return
    for match in _IBAN.finditer(text):
        if end := _iban_end(text, match.start()):
            yield "iban", match.start(), end
    # Every number lies in a cluster, but for a plus or bracket before it; what follows it needs two characters.
    spans = [(max(0, cluster.start() - 1), cluster.end() + 2) for cluster in _CLUSTER.finditer(text)]
    for kind, pattern, accepts in _NUMBERS:
        for start, end in spans:
            for match in pattern.finditer(text, start, end):
                if accepts(match):
                    yield kind, match.start(), match.end()


def _iban_end(text: str, start: int) -> int:
    """Where the account number that begins at `start` ends; 0 where none does. Spaces may part its characters."""
    length = _IBAN_LENGTHS.get(text[start : start + 2])
    if length is None:
        return 0
    spelled = re.compile(rf"[A-Z0-9](?: ?[A-Z0-9]){{{length - 1}}}(?![A-Za-z0-9])").match(text, start)
    if spelled is None:
        return 0
    number = spelled[0].replace(" ", "")
    # ISO 13616: the first four characters go to the end, and letters count from 10.
    remainder = int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97
    return spelled.end() if remainder == 1 else 0


def _is_card(match: re.Match[str]) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1), and an issuer's first digits."""
    number = re.sub("[ -]", "", match[0])
    digits = [int(digit) for digit in number]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (doubled + sum(digits[::-2])) % 10 == 0 and _CARD_ISSUERS.fullmatch(number) is not None


def _is_phone(match: re.Match[str]) -> bool:
    """At least 8 digits, and no decimal with a sign."""
    digits = sum(character.isdigit() for character in match[0])
    return digits >= 8 and _DECIMAL.fullmatch(match[0]) is None


def _is_named_phone(match: re.Match[str]) -> bool:
    """7 to 15 digits (ITU-T E.164) after words that say so, and no date."""
    digits = sum(character.isdigit() for character in match[0])
    before = match.string[max(0, match.start() - 40) : match.start()]
    return 7 <= digits <= 15 and _PHONE_WORD.search(before) is not None and _DATE.match(match[0]) is None


def _is_address(match: re.Match[str]) -> bool:
    """A public address, not a version or a section: those have a word before them, or single digits in most places."""
    before = match.string[max(0, match.start() - 12) : match.start()]
    large = sum(len(part) > 1 for part in match[0].split("."))
    return large > 1 and IPv4Address(match[0]).is_global and _VERSION_WORD.search(before) is None


_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("credit_card", _CARD, _is_card),
    ("us_ssn", _SSN, lambda _: True),
    ("phone", _PHONE, _is_phone),
    ("phone", _NAMED_PHONE, _is_named_phone),
    ("ipv4", _IPV4, _is_address),
)

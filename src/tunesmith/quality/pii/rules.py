"""What each kind of personal data looks like, in order of precedence where two rules claim the same characters.

Precision comes first: a rule is a pattern that is rare by itself, or a checksum, or a word beside it that says what
the digits are ("passport", "born"). Digits that follow "order", "invoice" and the like are references, whatever
they look like. To add a kind, add its rule here and its check digit to `validators`.
"""

import re

from tunesmith.quality.pii import validators
from tunesmith.quality.pii.rule import Rule, after

_MONTH = r"(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"  # noqa: E501
_YEAR = r"(?:19\d\d|20[0-3]\d)"
_DATE = (
    rf"{_YEAR}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.](?:{_YEAR}|\d\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},? {_YEAR}|\d{{1,2}}-{_MONTH}-{_YEAR}"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? {_YEAR}"
)
_DATES = re.compile(r"\(?\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?![-/.]?\d)|(?:19|20)\d\d(?:[ ./-]+(?:19|20)\d\d)*\b")
_DECIMAL = re.compile(r"0\d*\.\d+")


def _is_spoken_phone(text: str) -> bool:
    """What follows "call": seven digits in two groups, ten that could be American, or valid somewhere; not dates."""
    number = validators.digits(text)
    if _DATES.match(text) or _DECIMAL.fullmatch(text):
        return False
    if text.isdigit() and len(number) not in (10, 11):
        return False
    if len(number) == 7:
        return re.fullmatch(r"[2-9]\d\d[-. ]\d{4}", text) is not None
    american = len(number) == 10 and number[0] not in "01"
    return len(number) >= 8 and (american or validators.is_national_phone(text))


def _is_trunk_phone(text: str) -> bool:
    """A number with the trunk prefix 0 and groups, valid in a number plan, and not a date such as 01/02/2023."""
    return (
        not _DATES.match(text)
        and not _DECIMAL.fullmatch(text)
        and not text.isdigit()
        and validators.is_national_phone(text)
    )


EMAIL_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}$")
EMAIL_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+(?P<ending>[^\W\d_]{2,24})(?![\w@])")
NOT_DOMAINS = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "ico", "css", "js", "ts", "py", "json", "html", "htm", "pdf")
)
"""File endings that follow an @ in names such as `icon@2x.png`."""

_BIRTH_STEMS = (
    "birth",
    "born",
    "dob",
    "d.o.b",
    "gebor",
    "geburt",
    "naci",
    "naiss",
    "n\u00e9 le",
    "n\u00e9e le",
    "nato il",
    "nata il",
)
_BIRTH_WORDS = (
    "date of birth", "birth date", "birthdate", "birthday", "dob", "d.o.b", "born", "birth", "geboren", "geburtsdatum",
    "nacido", "nacida", "nacimiento", "naissance", "n\u00e9 le", "n\u00e9e le",
    "nato il", "nata il",
)  # fmt: skip
BIRTH_DATE = Rule("DATE_OF_BIRTH", after(_BIRTH_WORDS, _DATE), words=_BIRTH_STEMS)

MAC_ADDRESSES = (
    Rule(
        "MAC_ADDRESS",
        re.compile(r"(?<![\w:-])(?:[0-9A-Fa-f]{2}([:-]))(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])"),
        validators.is_mac_address,
    ),
    Rule(
        "MAC_ADDRESS",  # as Cisco writes it; of digits alone it could be any number
        re.compile(r"(?<![\w.])(?=[\d.]*[A-Fa-f])(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?![\w-]|\.\w)"),
        validators.is_mac_address,
    ),
)
IP_ADDRESSES = (
    Rule(
        "IP_ADDRESS",
        re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w|/(?:[12]?\d|3[01])\b)"),  # no network's
        validators.is_ip_address,
        personal=False,
    ),
    Rule(
        "IP_ADDRESS",
        re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{3,4}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{1,4})(?![\w:])"),
        validators.is_ip_address,
    ),
)

_SSN_WORDS = ("ssn", "social security")
_AADHAAR_WORDS = ("aadhaar", "aadhar")
_SIN_WORDS = ("sin", "social insurance")
_TAX_WORDS = ("steuer-id", "steuer id", "steueridentifikationsnummer", "steuernummer", "tax id")
_BSN_WORDS = ("bsn", "burgerservicenummer", "sofinummer")
_PASSPORT_WORDS = ("passport", "passeport", "reisepass", "pasaporte")
_LICENCE_WORDS = tuple(
    f"{driver} {licence}"
    for driver in ("driver's", "driver\u2019s", "drivers", "driver", "driving")
    for licence in ("license", "licence")
)
_PHONE_WORDS = (
    "phone", "telephone", "tel", "mobile", "cell", "fax", "whatsapp", "call", "text", "dial", "sms", "my number",
    "his number", "her number", "their number", "number is", "tel\u00e9fono", "telefono", "telefone", "telefon",
    "t\u00e9l\u00e9phone", "t\u00e9l", "m\u00f3vil", "celular", "cellulare", "handy", "handynummer", "telefonnummer",
    "ll\u00e1mame", "ll\u00e1menos", "llama", "appelez", "appelle", "chiamami", "ligue",
)  # fmt: skip
_REACHING_WORDS = (*_PHONE_WORDS, "contact", "reach", "reached", "ring")
_LEADING = "at|on|is|to|under|me|us|him|her|them|number|no|nr|now|today|via|al|au|unter|me al"
"""What may stand between such a word and a number as short as a count of cases."""

# Runs of digits are taken whole (possessively): there are millions of ways to cut a long one into groups.
_PHONE_GROUPS = r"\d{1,15}+(?:(?:[ .\-/]{1,2}\(?|\(|(?<=\)))\d{1,10}+\)?){0,6}(?:(?!\w)|(?=x\d))"
_EXTENSION = re.compile(r",?\s?(?i:ext(?:ension|n)?|x|poste|durchwahl)\.?\s?\d{1,6}\b")


def _spoken_phone(words: tuple[str, ...], between: str, digits: int) -> Rule:
    """A number of at least so many digits after one of `words`, and what may stand between them."""
    word = "|".join(words)
    return Rule(
        "PHONE",
        re.compile(
            rf"\b(?i:{word})\b{between}(?P<value>\(?\d(?:[ .()/-]{{0,3}}\d){{{digits - 1},15}})(?:(?!\w)|(?=x\d))"
        ),
        _is_spoken_phone,
        words=words,
        digits=digits,
        shorten=True,
        personal=False,
        tail=_EXTENSION,
    )


NUMBERS = (
    Rule(
        "IBAN",
        re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        validators.is_iban,
        shapes=(b"AA00",),
        shorten=True,
    ),
    Rule(
        "CREDIT_CARD",
        re.compile(
            r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3[47]\d\d([ -])\d{6}\2\d{5}"
            r"|3[0689]\d\d([ -])\d{6}\3\d{4})(?![\w-])"
        ),
        validators.is_card,
        shapes=(b"0000000000000", b"0000 0000 0000 0000", b"0000 000000 0000"),
        personal=False,
    ),
    Rule(
        "US_ITIN",
        re.compile(r"(?<![\w-])9\d\d-(?:5\d|6[0-5]|7\d|8[0-8]|9[0-24-9])-\d{4}(?![\w-])"),
        shapes=(b"000 00 0000",),
        personal=False,
        is_id=True,
    ),
    Rule(
        "US_SSN",
        re.compile(r"(?<![\w-])\d{3}([- ])\d\d\1\d{4}(?![\w-])"),
        validators.is_us_ssn,
        shapes=(b"000 00 0000",),
        personal=False,
        is_id=True,
    ),
    Rule(
        "SE_PERSONNUMMER",
        re.compile(r"(?<![\w-])(?:19|20)?\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])[-+]\d{4}(?![\w-])"),
        lambda text: validators.is_luhn(text[-11:]),
        shapes=(b"000000 0000", b"000000x0000"),
        personal=False,
    ),
    Rule("US_SSN", after(_SSN_WORDS, r"\d{9}"), validators.is_us_ssn, words=_SSN_WORDS, digits=9),
    Rule(
        "UK_NINO",
        re.compile(r"\b(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]( ?)\d\d\1\d\d\1\d\d\1[A-D]\b"),
        shapes=(b"AA000000A", b"AA 00 00 00 A"),
    ),
    Rule(
        "ES_ID",
        re.compile(r"(?<![\w-])(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]\b"),
        validators.is_spanish_id,
        shapes=(b"0000000A", b"0000000 A"),
    ),
    Rule(
        "FR_NIR",
        re.compile(r"(?<![\w-])[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d(?![\w-])"),
        validators.is_french_nir,
        shapes=(b"000 000 00", b"000 00000", b"000000 00", b"00000000"),
        personal=False,
    ),
    Rule(
        "IT_FISCAL_CODE",
        re.compile(r"\b[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]\b"),
        validators.is_codice_fiscale,
        shapes=(b"AAAAAA00A00A000A",),
    ),
    Rule(
        "IN_AADHAAR",
        re.compile(r"(?<![\w+-])(?<!\d )[2-9]\d{3}([ -])\d{4}\1\d{4}(?![\w-]| \d)"),
        validators.is_aadhaar,
        shapes=(b"0000 0000 0000",),
        personal=False,
    ),
    Rule("IN_AADHAAR", after(_AADHAAR_WORDS, r"\d{12}"), validators.is_aadhaar, words=_AADHAAR_WORDS, digits=12),
    Rule(
        "IN_PAN",
        re.compile(r"\b[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z]\b"),
        shapes=(b"AAAAA0000A",),
        personal=False,
    ),
    Rule(
        "BR_CPF",
        re.compile(r"(?<![\w.-])\d{3}\.\d{3}\.\d{3}-\d\d(?![\w-])"),
        validators.is_cpf,
        shapes=(b"000 000 000 00",),
    ),
    Rule("BR_CPF", after(("cpf",), r"\d{11}"), validators.is_cpf, words=("cpf",), digits=11),
    Rule("NL_BSN", after(_BSN_WORDS, r"\d{9}"), validators.is_dutch_bsn, words=_BSN_WORDS, digits=9),
    Rule("UK_NHS", after(("nhs",), r"\d{3}[ -]?\d{3}[ -]?\d{4}"), validators.is_nhs_number, words=("nhs",), digits=10),
    Rule("CA_SIN", after(_SIN_WORDS, r"\d{3}[ -]?\d{3}[ -]?\d{3}"), validators.is_luhn, words=_SIN_WORDS, digits=9),
    Rule(
        "DE_TAX_ID",
        after(_TAX_WORDS, r"\d{2} ?\d{3} ?\d{3} ?\d{3}"),
        validators.is_german_tax_id,
        words=_TAX_WORDS,
        digits=11,
    ),
    Rule("PL_PESEL", after(("pesel",), r"\d{11}"), validators.is_pesel, words=("pesel",), digits=11),
    Rule("PASSPORT", after(_PASSPORT_WORDS, r"[A-Z]{0,2}\d{6,9}[A-Z]?"), words=_PASSPORT_WORDS, digits=6),
    # Germany's serial numbers mix digits with consonants.
    Rule("PASSPORT", after(_PASSPORT_WORDS, r"[CFGHJK](?=\w*\d)[\dCFGHJKLMNPRTVWXYZ]{8}"), words=_PASSPORT_WORDS),
    Rule("DRIVING_LICENCE", after(_LICENCE_WORDS, r"[A-Z]{1,5}-?\d[\dA-Z-]{4,14}"), words=_LICENCE_WORDS, digits=5),
    Rule(
        "PHONE",
        re.compile(rf"(?<![\w+])\+{_PHONE_GROUPS}"),
        validators.is_international_phone,
        signs=("+",),
        digits=7,
        shorten=True,
        tail=_EXTENSION,
    ),
    Rule(
        "PHONE",
        re.compile(rf"(?<![\w+-])(?<!\d:)00(?=[1-9])(?!\d{3}-\d{4}\b){_PHONE_GROUPS}"),
        lambda text: validators.is_international_phone(f"+{text[2:]}"),
        signs=("00",),
        digits=7,
        shorten=True,
        personal=False,
        tail=_EXTENSION,
    ),
    Rule(
        "PHONE",
        re.compile(
            r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([.-]))\d{3}[ .-]\d{4}(?:(?![\w-]|\.\d)|(?=x\d))"
        ),
        shapes=(b"000 0000",),
        personal=False,
        tail=_EXTENSION,
    ),
    Rule(
        "PHONE",
        re.compile(
            r"(?<![\w.,:+/-])(?<!\d )(?!\d{4}([ .-])\d{4}\1\d{4}\1\d{4}|\d{5}-\d{4}\b)"
            r"(?:\(0\d{1,4}\)|0\d{1,4})(?: / |[ ./-]{1,2})\d{2,8}(?:[ ./-]{1,2}\d{2,8}){0,4}(?:(?!\w)|(?=x\d))"
        ),
        _is_trunk_phone,
        signs=("0",),
        digits=9,
        shorten=True,
        personal=False,
        tail=_EXTENSION,
    ),
    _spoken_phone(_REACHING_WORDS, r"(?:(?!(?<=\w\w\w\w)[.!?] )[^\d\n]){0,24}?(?<![\w+])", 9),
    _spoken_phone(_PHONE_WORDS, rf"(?:[^\d\n.!?]{{0,16}} (?i:{_LEADING}))?\W{{1,3}}(?<!\+)", 7),
    Rule(
        "PHONE",
        re.compile(r"(?<![\w.,+\[-])[2-9]\d\d \d{3} \d{4}(?![\w,.-]\d| \d)"),
        validators.is_national_phone,
        shapes=(b"000 000 0000",),
        personal=False,
        tail=_EXTENSION,
    ),
)
"""The kinds made of at least six digits close together, or of four between capitals."""


def _backwards(words: str) -> str:
    """An alternation of `words`, each spelled from its end."""
    return "|".join(word[::-1] for word in words.split())


NAMERS = (
    "order invoice tracking ticket ref reference sku serial version release firmware section chapter build commit part"
    " model isbn ean gtin upc barcode zip case item product transaction shipment lot ein parcel booking confirmation"
    " batch timestamp v"
)
"""What numbers that name things are called."""

REFERENCE = re.compile(
    rf"(?:[\s#:.=\"'(-]*\b(?:{_backwards('no num number id code is was nr')})){{0,2}}"
    rf"[\s#:=\"'(-]*(?:\.?fer\b|\b(?:{_backwards(NAMERS)}|(?P<id>di)))",
    re.IGNORECASE,
)
"""What stands right before a number that names a thing, not a person: matched on the text before it, backwards."""

REFERENCE_REACH = 40

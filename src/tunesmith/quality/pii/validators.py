"""Check digits and number plans: what tells a card, an account or an identity number from any other digits.

A pattern alone would call every order number a card; a checksum lets one in ten through at worst, most one in ninety.
Each function takes the text as matched, with its separators.
"""

import ipaddress
import math
import re
from collections import Counter

import phonenumbers

IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""SWIFT IBAN registry, release 99 (December 2024)."""

CARD_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12,15}"  # Discover
    r"|(?:30[0-5]|36\d|38\d|39\d)\d{11}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"  # JCB
    r"|62\d{14,17}"  # UnionPay
)
"""Issuer prefixes with their lengths (ISO/IEC 7812-1)."""

PHONE_REGIONS = ("US", "GB", "DE", "FR", "IN", "BR", "IL", "ES", "IT", "AU")
"""Number plans tried for a number without a country code: those Presidio tries, and four more."""

KEY_ENTROPY_BITS = 3.0
"""Shannon entropy per character from which a token looks random; English prose-like names stay below."""


def digits(text: str) -> str:
    """The ASCII digits of `text`."""
    return "".join(character for character in text if "0" <= character <= "9")


def is_luhn(text: str) -> bool:
    """The Luhn checksum (ISO/IEC 7812-1, annex B) over the digits of `text`."""
    total = 0
    for position, digit in enumerate(map(int, reversed(digits(text)))):
        doubled = digit * 2 if position % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def is_card(text: str) -> bool:
    """A payment card: an issuer's prefix with its length, Luhn, and not one digit over and over."""
    number = digits(text)
    return CARD_ISSUERS.fullmatch(number) is not None and len(set(number)) > 1 and is_luhn(number)


def is_iban(text: str) -> bool:
    """An IBAN: its country's length and ISO 7064 mod 97-10 (ISO 13616)."""
    number = text.replace(" ", "")
    if IBAN_LENGTHS.get(number[:2]) != len(number):
        return False
    return _mod97(number[4:] + number[:4]) == 1


def is_us_ssn(text: str) -> bool:
    """A number in the form of the US Social Security Administration's: no area 000 or 666, no group of zeros.

    It has issued none from 900 on; who writes one down in this form means one all the same.
    """
    number = digits(text)
    area, group, serial = number[:3], number[3:5], number[5:]
    return area not in ("000", "666") and group != "00" and serial != "0000" and len(set(number)) > 1


def is_spanish_id(text: str) -> bool:
    """A Spanish DNI or NIE: the letter is the number modulo 23."""
    number = text.upper().replace("-", "").replace(" ", "")
    leading = {"X": "0", "Y": "1", "Z": "2"}.get(number[0], number[0])
    return number[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(leading + number[1:-1]) % 23]


def is_french_nir(text: str) -> bool:
    """A French social security number: 13 digits (2A and 2B for Corsica) and a key that is 97 minus their remainder."""
    number = text.replace(" ", "").upper()
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return 97 - int(body) % 97 == int(number[13:])


def is_codice_fiscale(text: str) -> bool:
    """An Italian codice fiscale: the sixteenth letter checks the fifteen before it (DM 23/12/1976)."""
    code = text.upper()
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    total = 0
    for position, character in enumerate(code[:15]):
        value = int(character) if character.isdigit() else ord(character) - ord("A")
        total += odd[value] if position % 2 == 0 else value
    return chr(ord("A") + total % 26) == code[15]


def is_aadhaar(text: str) -> bool:
    """An Indian Aadhaar number: twelve digits, not starting with 0 or 1, Verhoeff checksum."""
    number = digits(text)
    check = 0
    for position, digit in enumerate(map(int, reversed(number))):
        for _ in range(position % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        check = _dihedral(check, digit)
    return number[0] not in "01" and check == 0


def is_cpf(text: str) -> bool:
    """A Brazilian CPF: two check digits modulo 11."""
    number = [int(digit) for digit in digits(text)]
    if len(set(number)) == 1:
        return False
    for length in (9, 10):
        total = sum(digit * (length + 1 - position) for position, digit in enumerate(number[:length]))
        if total * 10 % 11 % 10 != number[length]:
            return False
    return True


def is_nhs_number(text: str) -> bool:
    """A UK NHS number: ten digits, the last a check digit modulo 11."""
    number = [int(digit) for digit in digits(text)]
    check = 11 - sum(digit * (10 - position) for position, digit in enumerate(number[:9])) % 11
    return check % 11 == number[9] and check != 10


def is_dutch_bsn(text: str) -> bool:
    """A Dutch burgerservicenummer: nine digits whose weighted sum, the last one taken off, 11 divides."""
    number = [int(digit) for digit in digits(text)]
    return sum(digit * weight for digit, weight in zip(number, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0


def is_german_tax_id(text: str) -> bool:
    """A German Steuer-ID: eleven digits, ISO 7064 mod 11,10."""
    number = [int(digit) for digit in digits(text)]
    product = 10
    for digit in number[:10]:
        product = ((product + digit) % 10 or 10) * 2 % 11
    return number[0] != 0 and (11 - product) % 10 == number[10]


def is_pesel(text: str) -> bool:
    """A Polish PESEL: eleven digits, weighted check digit modulo 10."""
    number = [int(digit) for digit in digits(text)]
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)
    return sum(digit * weight for digit, weight in zip(number, weights, strict=True)) % 10 == 0


def is_international_phone(text: str) -> bool:
    """A number with `+` and a country code whose plan allows its length (fictional numbers are allowed too)."""
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text, None))
    except phonenumbers.NumberParseException:
        return False


def is_national_phone(text: str) -> bool:
    """A number without country code that is valid in the plan of one of `PHONE_REGIONS`."""
    for region in PHONE_REGIONS:
        try:
            if phonenumbers.is_valid_number_for_region(phonenumbers.parse(text, region), region):
                return True
        except phonenumbers.NumberParseException:
            return False
    return False


def is_ip_address(text: str) -> bool:
    """An address that can stand for somebody's machine: not loopback, unspecified, multicast or a net mask."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address) and (text.startswith(("0.", "255.")) or max(address.packed) < 10):
        return False  # net masks; and four single digits are a version number far more often
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def is_mac_address(text: str) -> bool:
    """A MAC address that is not all zeros or the broadcast address."""
    return len(set(text.upper()) - set(":-.")) > 1


def is_random(text: str) -> bool:
    """Whether a token's characters look drawn at random, as a key's do and `YOUR_API_KEY_HERE` or `xxxxxxxx` do not."""
    return any("0" <= character <= "9" for character in text) and is_varied(text)


def is_varied(text: str) -> bool:
    """Whether few of a token's characters repeat."""
    counts = Counter(text)
    entropy = -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())
    return entropy >= KEY_ENTROPY_BITS


def _mod97(text: str) -> int:
    return int("".join(str(int(character, 36)) for character in text)) % 97


def _dihedral(a: int, b: int) -> int:
    """The product of two elements of the dihedral group of order 10, as the Verhoeff checksum multiplies digits."""
    flips = 5 if (a < 5) != (b < 5) else 0
    return (a + b if a < 5 else a - b) % 5 + flips

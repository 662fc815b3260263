import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.quality.pii import find_pii
from tunesmith.quality.pii.validators import (
    is_aadhaar,
    is_card,
    is_codice_fiscale,
    is_cpf,
    is_french_nir,
    is_german_tax_id,
    is_iban,
    is_luhn,
    is_nhs_number,
    is_pesel,
    is_spanish_id,
)

FOUND = [
    ("write to jane.doe+x@example.com today", "EMAIL", "jane.doe+x@example.com"),
    ("mail (bob@mail.example.co.uk).", "EMAIL", "bob@mail.example.co.uk"),
    ("my card is 4111 1111 1111 1111 12/26", "CREDIT_CARD", "4111 1111 1111 1111"),
    ("card 4111111111111111, thanks", "CREDIT_CARD", "4111111111111111"),
    ("amex 3782 822463 10005", "CREDIT_CARD", "3782 822463 10005"),
    ("pay to DE89 3704 0044 0532 0130 00 AND not later", "IBAN", "DE89 3704 0044 0532 0130 00"),
    ("GB29NWBK60161331926819", "IBAN", "GB29NWBK60161331926819"),
    ("her number: 536-22-8726", "US_SSN", "536-22-8726"),
    ("SSN: 536228726", "US_SSN", "536228726"),
    ("NINO AB 12 34 56 C", "UK_NINO", "AB 12 34 56 C"),
    ("DNI 12345678Z", "ES_ID", "12345678Z"),
    ("2345 6789 0124", "IN_AADHAAR", "2345 6789 0124"),
    ("CPF 529.982.247-25", "BR_CPF", "529.982.247-25"),
    ("RSSMRA85T10A562S", "IT_FISCAL_CODE", "RSSMRA85T10A562S"),
    ("2 55 08 14 168 025 38", "FR_NIR", "2 55 08 14 168 025 38"),
    ("NHS number 943 476 5919", "UK_NHS", "943 476 5919"),
    ("call me at (415) 555-2671", "PHONE", "(415) 555-2671"),
    ("415-555-2671 is mine", "PHONE", "415-555-2671"),
    ("+44 20 7946 0958", "PHONE", "+44 20 7946 0958"),
    ("+1 415 555 2671 2024", "PHONE", "+1 415 555 2671"),
    ("06 12 34 56 78", "PHONE", "06 12 34 56 78"),
    ("phone: 555-0199", "PHONE", "555-0199"),
    ("Call (415) 555-2671 x123 now", "PHONE", "(415) 555-2671 x123"),
    ("+1-415-555-2671, ext. 45.", "PHONE", "+1-415-555-2671, ext. 45"),
    ("415-555-2671x9", "PHONE", "415-555-2671x9"),
    ("020 7946 0958 extension 12", "PHONE", "020 7946 0958 extension 12"),
    ("06.43.24.20.82", "PHONE", "06.43.24.20.82"),
    ("from 83.12.44.19 again", "IP_ADDRESS", "83.12.44.19"),
    ("host 2001:db8:85a3::8a2e:370:7334", "IP_ADDRESS", "2001:db8:85a3::8a2e:370:7334"),
    ("mac 00:1A:2B:3C:4D:5E", "MAC_ADDRESS", "00:1A:2B:3C:4D:5E"),
    ("mac C2:CE:EA:FD:FB:CC", "MAC_ADDRESS", "C2:CE:EA:FD:FB:CC"),
    ("he was born in Paris on 5 March 1987", "DATE_OF_BIRTH", "5 March 1987"),
    ("DOB: 05/03/1987", "DATE_OF_BIRTH", "05/03/1987"),
    ("passport number X1234567", "PASSPORT", "X1234567"),
    ("AKIAIOSFODNN7EXAMPLE", "API_KEY", "AKIAIOSFODNN7EXAMPLE"),
    ('api_key = "9f8d7c6b5a4e3f2d1c0b9a8f7e6d5c4b"', "API_KEY", "9f8d7c6b5a4e3f2d1c0b9a8f7e6d5c4b"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "PRIVATE_KEY",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ),
]

INNOCENT = [
    "order 4111111111111111 shipped",
    "Call center handled 3211 8010 cases",
    "contact tracing found 374 5634 people",
    "They reach 466 0891 households",
    "the ability to reach. A score of 21-14 21-18 17-21",
    "blood cell. 0.30866184 of them",
    "07020-5183 is the ZIP",
    "Please tell them that 1 423 450 064 is the distance",
    "the network 10.20.30.0/24",
    "personnummer 811218-9875",
    "Order #415-555-2671",
    "part number 555-123-4567",
    "released 2023-11-14 10:22:33",
    "timestamp 1699957353000",
    "version 10.0.19041.1 and 1.2.3.4 and v2.10.3.1",
    "ISBN 978-3-16-148410-0",
    "1,000,000 and 2,500,000.00",
    "tracking number 1Z999AA10123456784",
    "npm i @scope/pkg@1.2.3 and icon@2x.png",
    "@property def foo(self)",
    "127.0.0.1 and 255.255.255.0",
    "12:30:45 std::vector",
    "call the function 1000000 times",
    "10 20 30 40 50 60 70 80",
    "pi = 3.14159265358979",
    "commit 9f8d7c6b5a4e3f2d1c0b9a8f7e6d5c4b9f8d7c6b",
    "uuid 123e4567-e89b-12d3-a456-426614174000",
    "YOUR_API_KEY=your_api_key_goes_here_please",
    "Napoleon was born on August 15, 1769",
    "from 01/02/2023 to 04.05.2024",
    "coordinates 40.712776, -74.005974",
    "1234567890123456",
    "phone models 2019 2020 2021",
    "<EMAIL_1> called <PHONE_2>",
]


@pytest.mark.parametrize(("text", "kind", "value"), FOUND, ids=[f"{kind}: {value[:20]}" for _, kind, value in FOUND])
def test_personal_data_is_found_exactly(text: str, kind: str, value: str) -> None:
    assert [(span.kind, text[span.start : span.end]) for span in find_pii(text)] == [(kind, value)]


@pytest.mark.parametrize("text", INNOCENT)
def test_numbers_that_name_things_are_not_personal(text: str) -> None:
    assert find_pii(text) == ()


def test_long_texts_are_searched_everywhere() -> None:
    filler = "nothing to see here, move along " * 40
    text = filler + "bob@example.com " + filler + "4111 1111 1111 1111 " + filler + "+44 20 7946 0958"
    assert [span.kind for span in find_pii(text)] == ["EMAIL", "CREDIT_CARD", "PHONE"]


@given(st.text(alphabet="0123456789 -+@.:/()AGBxborn\n<>é\ud800", max_size=60))
def test_any_text_gives_ordered_spans_without_overlap(text: str) -> None:
    spans = find_pii(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("valid", "number"),
    [
        (is_luhn, "79927398713"),
        (is_card, "5555555555554444"),
        (is_iban, "FR1420041010050500013M02606"),
        (is_aadhaar, "234567890124"),
        (is_spanish_id, "X1234567L"),
        (is_codice_fiscale, "MRTMTT91D08F205J"),
        (is_french_nir, "255081416802538"),
        (is_cpf, "11144477735"),
        (is_nhs_number, "9434765919"),
        (is_german_tax_id, "86095742719"),
        (is_pesel, "44051401359"),
    ],
)
def test_a_check_digit_accepts_the_published_example_and_no_other_last_digit(valid: object, number: str) -> None:
    assert callable(valid)
    position = max(index for index, character in enumerate(number) if character.isdigit())
    accepted = [d for d in "0123456789" if valid(number[:position] + d + number[position + 1 :])]
    assert accepted == [number[position]]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("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", "API_KEY"),  # no digit
        ("gsk_" + "aB3dE6gH9jK2" * 4 + "xYz7", "API_KEY"),
        ("whsec_9ZBFdbxVblwo7vl1zetGY8HkwfHjncCe", "API_KEY"),
        ("https://hooks.slack.com/services/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", "API_KEY"),
        ("AC5389575a1252b70acfc34d40d2da4faa", "API_KEY"),  # Twilio
        ("key-5389575a1252b70acfc34d40d2da4faa", "API_KEY"),  # Mailgun
        ("patV0Gpx65AkPXwkY." + "5fd79647cf1f1050" * 4, "API_KEY"),  # Airtable
        ("5389575a1252b70acfc34d40d2da4faa-us12", "API_KEY"),  # Mailchimp
        ("110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsawx", "API_KEY"),  # Telegram
        ("AccountKey=" + "aB3dE6gH9jK" * 7 + "aB3dE6gH9==", "API_KEY"),  # Azure
        ("Employee ID 222-77-2846 is on file", "US_SSN"),
        ("My ITIN is 975-88-4531.", "US_ITIN"),
        ("Mine is 945-12-3456, I think.", "US_SSN"),
        ("personnummer 811218-9876", "SE_PERSONNUMMER"),
        ("BSN 111222333", "NL_BSN"),
        ("CPF: 52998224725", "BR_CPF"),
        ("2131 with spaces? No: 213100000000001 is my card", "CREDIT_CARD"),
        ("MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs", "API_KEY"),  # Discord
        ("J'appelle du 06-54-66-36-78", "PHONE"),
        ("Ll\u00e1mame al 612 345 678", "PHONE"),
        ("It is in the northern part. 303-469-5937 is my mobile", "PHONE"),
        ("She was born on 15-Oct-1980", "DATE_OF_BIRTH"),
        ("hardware address b3b2.7e5b.ca2b", "MAC_ADDRESS"),
        ("Elle est n\u00e9e le 25.06.1991.", "DATE_OF_BIRTH"),
        ("My passport is C01X00T47.", "PASSPORT"),
        ("Ruf an: 030 / 71593504", "PHONE"),
        ("0049 30 901820", "PHONE"),
    ],
)
def test_forms_of_more_countries_and_services_are_found(text: str, kind: str) -> None:
    assert [span.kind for span in find_pii(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "Upgrade to version 19.26.88.137",
        "Section 12.4.1.3 of the standard",
        "Order #0044605068 has shipped.",
        "invoice INV-0075-999984",
        "chr1:00915318-39689055",
        "EAN 4017067836890",
        "ZIP 09811-3978",
        "3215 9245 6795 6007 units",
        "meeting ID 381 0941 8504",
        "part id 222-77-2846",
        "0637-7524-2894-4028 is the licence of the program",
        "at 01.153946 degrees",
        "1234.5678.9012 in groups of four",
        "sha256 key-value store, patterns, AC and SK in 16 words",
        "matrix [[655 263 9847], [58 688]]",
    ],
)
def test_numbers_of_things_are_not_personal(text: str) -> None:
    assert find_pii(text) == ()

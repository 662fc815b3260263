"""Knowledge that changes: what states it, and what only looks so."""

import pytest

from tunesmith.dataset.conversation import Conversation
from tunesmith.quality.check import Row
from tunesmith.quality.provenance import ProvenanceCheck


def changes(output: str, asked: str = "What about it?") -> bool:
    _, _, volatile = ProvenanceCheck().observe([Row(0, Conversation(), asked, output)])
    return volatile.count == 1


@pytest.mark.parametrize(
    "fact",
    [
        *(
            "costs $12.99",
            "costs 12.99 USD",
            "costs USD 240",
            "for \u20ac 3",
            "costs 535,50 \u20ac",
            "20 euros",
            "\u20b95130",
        ),
        *("812 CHF", "73 cents", "the fee is 806 pounds", "the price is 104.00", "a rate of 1.83%", "37,000 yen"),
        *("on 2024-01-02", "on 2/20/2023", "am 23.8.2019", "on 12 August 2017", "in July 2021", "by Sep 25, 2021"),
        *("in Q2 2026", "until the end of 2017", "the fiscal year 2019", "le 13 mars 2023", "am 5. M\u00e4rz 2020"),
        *("as of 2023", "since 2021", "from 2021 on", "during 2022", "on the 6th of May 2015"),
        *("v1.2", "V2.0", "version 3.4.5", "in Version 4", "release 2.16", "firmware 4.17.0", "upgrade to 1.3.0"),
        *("the v2 API", "Python 3.12", "iOS 17", "Ubuntu 24.04", "Node.js 22", "Django 5.1"),
    ],
)
def test_dates_prices_and_versions_change(fact: str) -> None:
    assert changes(f"I think it is {fact} for all of us.")


@pytest.mark.parametrize(
    "fact",
    [
        *(
            "90 seats",
            "2.5 cm wide",
            "36% of it",
            "page 201",
            "section 3.4",
            "1.5 kg",
            "at 12:30",
            "in 1789",
            "in 1945",
        ),
        *("20 people", "room 2014", "the 19th century", "ratio 3:2", "50 pounds of flour", "on May 20", "window 19"),
        *("chapter 10.1", "a score of 20-19", "5 of 20"),
    ],
)
def test_counts_sizes_and_history_do_not(fact: str) -> None:
    assert not changes(f"I think it is {fact} for all of us.")


def test_what_the_input_says_is_no_knowledge() -> None:
    assert not changes("The total is $12.99.", asked="Invoice: 12.99 dollars. What is the total?")

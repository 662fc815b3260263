"""The deliberately dirty sample: tickets with planted faults, and the truth about where they lie.

Every fault is planted on a row of its own, so that a checker's findings can be compared with the truth line by line.
The personal data is invented: documentation domains, fictional numbers, random digits that satisfy the checksums.
"""

import json
import string
from collections.abc import Callable
from random import Random

from tools.tickets import LABELS, ticket
from tools.words import NAMES


def luhn_digit(digits: str) -> str:
    """The check digit that completes a card number (ISO/IEC 7812-1)."""
    doubled = [int(d) * (2 if i % 2 == 0 else 1) for i, d in enumerate(reversed(digits))]
    return str(-sum(n - 9 if n > 9 else n for n in doubled) % 10)


def iban(rng: Random) -> str:
    """A German IBAN with a right check number (ISO 13616: mod 97)."""
    account = digits(rng, 18)
    check = 98 - int(f"{account}131400") % 97
    return f"DE{check:02d}{account}"


def digits(rng: Random, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def personal(rng: Random, kind: str) -> str:
    """A sentence that gives away personal data of `kind`."""
    first, last = (name.lower() for name in rng.sample(NAMES, 2))
    match kind:
        case "email":
            return f"Write to {first}.{last}@example.com."
        case "phone":
            return f"Call me at +1 202-555-01{digits(rng, 2)}."
        case "credit_card":
            number = "4" + digits(rng, 14)
            number += luhn_digit(number)
            return f"My card is {' '.join(number[i : i + 4] for i in range(0, 16, 4))}."
        case "iban":
            return f"My bank account is {iban(rng)}."
        case "us_ssn":
            return (
                f"My social security number is {rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}."
            )
        case _:
            return f"The api key is sk-{''.join(rng.choices(string.ascii_letters + string.digits, k=40))}."


PERSONAL = ("email", "phone", "credit_card", "iban", "us_ssn", "api_key")


def dirty(
    system: str, leaked: list[str], admits: Callable[[str], bool], seed: int
) -> tuple[list[str], dict[str, list[list[int]]]]:
    """The file's lines, shuffled, and per kind of fault the groups of 1-based line numbers that show it.

    `leaked` are lines of the ticket sample that this set repeats; `admits` says whether a text is unlike all before it.
    """
    rng = Random(seed)

    def fresh(tickets: int = 1) -> tuple[str, str]:
        while True:
            label = rng.choice(LABELS)
            text = " ".join(ticket(rng, label)[0] for _ in range(tickets))
            if admits(text):
                return text, label

    def line(text: str, answer: str) -> str:
        turns = [("system", system), ("user", text), ("assistant", answer)]
        return json.dumps(
            {"messages": [{"role": role, "content": content} for role, content in turns]}, ensure_ascii=False
        )

    groups: list[tuple[str, list[str]]] = [("clean", [line(*fresh())]) for _ in range(240)]

    for _ in range(12):
        same = line(*fresh())
        groups.append(("exact_duplicate", [same, same]))
    for _ in range(12):
        text, label = fresh(tickets=4)
        words = text.split()
        words[rng.randrange(2, len(words) - 2)] = rng.choice(["again", "really", "today"])
        groups.append(("near_duplicate", [line(text, label), line(" ".join(words), label)]))
    for _ in range(10):
        text, label = fresh()
        other = rng.choice([name for name in LABELS if name != label])
        groups.append(("contradiction", [line(text, label), line(text, other)]))
    for kind in PERSONAL:
        for _ in range(4):
            text, label = fresh()
            groups.append((f"pii_{kind}", [line(f"{text} {personal(rng, kind)}", label)]))
    for _ in range(5):
        text, label = fresh()
        groups.append(("refusal", [line(text, "I'm sorry, but as an AI language model I cannot help with that.")]))
        groups.append(("empty_output", [line(fresh()[0], rng.choice(["", " ", "\n"]))]))
        groups.append(("mojibake", [line(fresh()[0], f"{label} â€“ thatâ€™s what the cafÃ© said")]))
        groups.append(("markup", [line(fresh()[0], f"<p><b>{label}</b>&nbsp;</p>")]))
        echoed = fresh()[0]
        groups.append(("echo", [line(echoed, echoed)]))
    text, label = fresh()
    broken = [
        line(text, label)[:-20],
        line(text, label).replace('"', "'"),
        "label,ticket",
        '{"messages": "' + text + '"}',
        '{"messages": [{"role": "customer", "content": "Where is it?"}, {"role": "assistant", "content": "shipping"}]}',
        '{"messages": [{"role": "user", "content": 17}, {"role": "assistant", "content": "billing"}]}',
    ]
    groups += [("broken_line", [raw]) for raw in broken]
    groups += [("leaked_from_tickets", [raw]) for raw in leaked]

    slots = [(group, member) for group, (_, members) in enumerate(groups) for member in range(len(members))]
    rng.shuffle(slots)
    number = {slot: position for position, slot in enumerate(slots, start=1)}
    truth: dict[str, list[list[int]]] = {}
    for group, (kind, members) in enumerate(groups):
        if kind != "clean":
            truth.setdefault(kind, []).append(sorted(number[group, member] for member in range(len(members))))
    return [groups[group][1][member] for group, member in slots], {kind: sorted(found) for kind, found in truth.items()}

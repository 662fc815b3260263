"""A data set with known faults: rows of about 1.1 kB of English-like text, and the truth about every fault planted.

Words follow Zipf's law over a vocabulary of function words and inflected stems, so that texts share words and
phrases as real ones do. Beside the faults there are decoys that look like them and are none: order numbers, prices,
dates, versions, and rows that share a good half of their text with another row.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

FUNCTION_WORDS = (
    "the of to and a in is it you that he was for on are with as I his they be at one have this from or had by but "
    "what some we can out other were all there when up use your how said an each she which do their time if will way "
    "about many then them would so these her make like him into has look two more write go see no could people my "
    "than first been who its now find long down day did get come made may part"
).split()
STEMS = (
    "account answer apply arrive assemble attend balance book border bottle branch bridge build call camera carry "
    "change charge check circle claim clean clear climb collect compare connect consider control cook copy corner "
    "cover create credit cross custom dance deliver design detail develop direct discover district divide draft dream "
    "drive earn edit effect employ engine enter equal escape event exam expect explain export fabric factor farm "
    "filter finish fish float follow forest form frame garden gather govern grant ground group guard guide handle "
    "harbor harvest heat help hunt image import improve inform insist inspect install invest invite island join "
    "journey judge jump kitchen label land laugh launch lead learn lend level library lift light limit link listen "
    "load machine manage map market master matter measure meet member mention mark mind model monitor motor mountain "
    "move narrow network note number object observe offer office open operate order organ paint paper park partner "
    "pass pattern permit phrase pilot plan plant play point port powder prefer prepare present press print process "
    "produce program project protect prove publish pump purchase push question rain reach record reduce refer reform "
    "refund repair repeat reply report request research resist rest result return reveal review reward river road "
    "rock roll rule sample scan season second seem select sentence serve shape share ship shop signal sing smooth "
    "sort sound speak spell spend spring staff stamp start station stay steam steel stone store storm stream street "
    "strength stretch study suggest supply support surface survey switch system table talk target teach test thank "
    "thread throw ticket tour track trade train travel treat trust turn unit value vessel view visit vote wait walk "
    "wander warm warn wash watch water weather weigh window winter wonder work yard yield"
).split()
ENDINGS = ("", "s", "ed", "ing", "er", "ers", "ment", "able")
VOCABULARY = FUNCTION_WORDS + [stem + ending for ending in ENDINGS for stem in STEMS]
SENTENCE_WORDS = 11


@dataclass
class Truth:
    """What was planted, by 1-based line; pairs are (earlier, later)."""

    exact: set[tuple[int, int]] = field(default_factory=set)
    near: set[tuple[int, int]] = field(default_factory=set)
    contradictions: set[tuple[int, int]] = field(default_factory=set)
    personal: dict[int, tuple[str, str]] = field(default_factory=dict)
    broken: dict[int, int] = field(default_factory=dict)
    """Line → column."""
    leaked: set[int] = field(default_factory=set)
    """Lines of the evaluation file."""


@dataclass(frozen=True)
class PlantedFiles:
    """The files and what is in them."""

    rows: Path
    evaluation: Path
    truth: Truth


class Writer:
    """Sentences of Zipf-distributed words from one seeded stream."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        ranks = np.arange(1, len(VOCABULARY) + 1)
        weights = 1 / (ranks + 2.7)  # Mandelbrot's form of Zipf's law
        self._numbers = np.random.default_rng(seed)
        self._weights = np.cumsum(weights / weights.sum())
        self._words: list[str] = []
        self._used = 0

    def words(self, count: int) -> list[str]:
        """The next `count` words."""
        if len(self._words) - self._used < count:
            drawn = np.searchsorted(self._weights, self._numbers.random(max(count, 100_000)))
            self._words, self._used = [VOCABULARY[index] for index in drawn.tolist()], 0
        self._used += count
        return self._words[self._used - count : self._used]

    def text(self, words: int) -> str:
        """`words` words in sentences."""
        drawn = self.words(words)
        starts = range(0, words, SENTENCE_WORDS)
        return " ".join(" ".join(drawn[start : start + SENTENCE_WORDS]).capitalize() + "." for start in starts)

    def digits(self, count: int) -> str:
        """A number of `count` digits that does not begin with 0."""
        return str(self.random.randrange(10 ** (count - 1), 10**count))


def plant(folder: Path, rows: int, *, seed: int = 0) -> PlantedFiles:
    """Write `rows.jsonl` with about `rows` lines, and `evaluation.jsonl` with a twentieth as many."""
    writer = Writer(seed)
    random = writer.random
    truth = Truth()
    pairs: list[tuple[str, str]] = []
    kinds: list[str] = []
    origin: list[int] = []
    for index in range(rows):
        kind = "clean" if index < 100 else random.choices(list(SHARES), list(SHARES.values()))[0]
        source = random.randrange(index) if index else 0
        while index and kind != "clean" and kinds[source] != "clean":
            source = random.randrange(index)
        pair = pairs[source] if kind in DERIVED else fresh_row(writer)
        kinds.append(kind)
        origin.append(source)
        pairs.append(DERIVED[kind](writer, pair) if kind in DERIVED else pair)
        here, there = index + 1, source + 1
        match kind:
            case "exact":
                truth.exact.add((there, here))
            case "near":
                truth.near.add((there, here))
            case "contradiction":
                truth.contradictions.add((there, here))
            case "personal":
                name, value = personal(writer)
                truth.personal[here] = (name, value)
                asked, said = pair
                pairs[index] = (asked, said + f" {LEADS.get(name, 'It is')} {value}.")
    lines = [line(*pair) for pair in pairs]
    for index, kind in enumerate(kinds):
        if kind == "broken":
            lines[index], truth.broken[index + 1] = broken(writer, lines[index])
    evaluation = []
    sources = [index for index, kind in enumerate(kinds) if kind == "clean"]
    for index in range(max(rows // 20, 10)):
        asked, said = fresh_row(writer)
        if random.random() < 0.1:
            asked = pairs[random.choice(sources)][0]
            if random.random() < 0.5:
                asked = reworded(writer, asked, random.uniform(0.01, 0.06))
            truth.leaked.add(index + 1)
        evaluation.append(line(asked, said))
    files = PlantedFiles(folder / "rows.jsonl", folder / "evaluation.jsonl", truth)
    files.rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    files.evaluation.write_text("\n".join(evaluation) + "\n", encoding="utf-8")
    return files


def line(asked: str, said: str) -> str:
    """One row of OpenAI's format."""
    return json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]})


def fresh_row(writer: Writer) -> tuple[str, str]:
    """A question and an answer, with a decoy in every third."""
    asked, said = writer.text(writer.random.randrange(40, 70)), writer.text(writer.random.randrange(90, 140))
    if writer.random.random() < 0.33:
        said += " " + writer.random.choice(DECOYS)(writer)
    return asked, said


def reworded(writer: Writer, text: str, share: float) -> str:
    """`text` with that share of its words replaced."""
    words = text.split()
    for place in writer.random.sample(range(len(words)), max(round(share * len(words)), 1)):
        words[place] = writer.words(1)[0]
    return " ".join(words)


def exact(writer: Writer, pair: tuple[str, str]) -> tuple[str, str]:
    """The same row; every third with other case and spacing, which normalization folds."""
    if writer.random.random() < 0.33:
        return pair[0].upper(), pair[1].replace(". ", ".  ")
    return pair


def near(writer: Writer, pair: tuple[str, str]) -> tuple[str, str]:
    """A few words of both sides replaced, so that the 5-character shingles' Jaccard similarity stays above 0.8."""
    share = writer.random.uniform(0.005, 0.08)
    while True:
        changed = reworded(writer, pair[0], share), reworded(writer, pair[1], share)
        if 0.8 <= jaccard(" ".join(pair), " ".join(changed)) < 1:
            return changed
        share *= 0.9


def half(writer: Writer, pair: tuple[str, str]) -> tuple[str, str]:
    """A decoy: a row that shares a good half of its text with another."""
    return writer.text(50), reworded(writer, pair[1], 0.25)


def contradiction(writer: Writer, pair: tuple[str, str]) -> tuple[str, str]:
    """The same question, or the question with an added courtesy, and another answer."""
    asked = pair[0] if writer.random.random() < 0.5 else f"Hello, {pair[0]} Thanks."
    return asked, writer.text(110)


DERIVED: dict[str, Callable[[Writer, tuple[str, str]], tuple[str, str]]] = {
    "exact": exact,
    "near": near,
    "half": half,
    "contradiction": contradiction,
}
SHARES = {
    "clean": 0.866,
    "exact": 0.03,
    "near": 0.03,
    "half": 0.01,
    "contradiction": 0.01,
    "personal": 0.05,
    "broken": 0.004,
}
"""Of the rows."""


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity of the sets of 5-character shingles, after lowering case."""
    first, second = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (one.lower(), other.lower()))
    return len(first & second) / max(len(first | second), 1)


def broken(writer: Writer, whole: str) -> tuple[str, int]:
    """A line that cannot be a row, and the column (1-based) of its mistake."""
    match writer.random.randrange(4):
        case 0:  # breaks off inside the answer: the parser names the string that never ends
            start = whole.rindex('"content": "') + len('"content": ')
            return whole[: start + 40], start + 1
        case 1:
            return whole.replace('"user"', '"customer"', 1), whole.index('"user"') + 1
        case 2:
            start = whole.rindex('"content": "') + len('"content": ')
            return whole[:start] + "42}]}", start + 1
        case _:  # a comma is missing between the messages
            start = whole.index('}, {"role": "assistant"')
            return whole[: start + 1] + whole[start + 2 :], start + 3


DECOYS: Sequence[Callable[[Writer], str]] = (
    lambda w: f"Your order {w.digits(10)} was shipped.",
    lambda w: f"Order number 4{w.digits(15)} is ready.",
    lambda w: f"The price rose from ${w.digits(3)}.99 to ${w.digits(4)}.00 that year.",
    lambda w: f"It happened on 20{w.random.randrange(10, 25)}-03-{w.random.randrange(10, 28)} at 10:42:17.",
    lambda w: f"Please install version {w.digits(2)}.{w.digits(1)}.{w.digits(4)} first.",
    lambda w: f"Invoice INV-{w.digits(8)} covers {w.digits(3)},{w.digits(3)} units.",
    lambda w: f"The ISBN is 978-3-{w.digits(2)}-{w.digits(6)}-{w.digits(1)}.",
    lambda w: f"Commit {''.join(w.random.choices('0123456789abcdef', k=40))} fixed it.",
    lambda w: f"Its tracking code is 1Z{w.digits(9)}{w.digits(7)}.",
    lambda w: f"The timestamp was 16{w.digits(11)}.",
    lambda w: f"From 19{w.digits(2)} to 20{w.digits(2)} it grew by {w.digits(2)}.{w.digits(2)}%.",
    lambda w: f"See chapters 10 12 14 16 18 20 and page {w.digits(3)}.",
)


def personal(writer: Writer) -> tuple[str, str]:
    """One piece of personal data: its kind and its text."""
    kind = writer.random.choice(list(PERSONAL))
    return kind, PERSONAL[kind](writer)


def _email(w: Writer) -> str:
    return f"{w.random.choice(STEMS)}.{w.random.choice(STEMS)}{w.digits(2)}@{w.random.choice(STEMS)}.example.com"


def _phone(w: Writer) -> str:
    area, number = w.random.choice(("212", "415", "312", "617", "206", "305")), f"{w.random.randrange(200, 999)}"
    return w.random.choice(("+1 {}-{}-{}", "({}) {}-{}", "{}-{}-{}")).format(area, number, w.digits(4))


def _card(w: Writer) -> str:
    number = w.random.choice(("4", "51", "55")) + w.digits(13)
    number = number[:15].ljust(15, "7")
    total = sum(sum(divmod(2 * int(digit), 10)) if index % 2 == 0 else int(digit) for index, digit in enumerate(number))
    number += str(-total % 10)
    return number if w.random.random() < 0.5 else " ".join(number[i : i + 4] for i in range(0, 16, 4))


def _iban(w: Writer) -> str:
    account = w.digits(18)
    check = 98 - int(f"{account}131400") % 97  # D = 13, E = 14
    number = f"DE{check:02d}{account}"
    return number if w.random.random() < 0.5 else " ".join(number[i : i + 4] for i in range(0, 22, 4))


def _ssn(w: Writer) -> str:
    return f"{w.random.randrange(100, 665)}-{w.random.randrange(10, 99)}-{w.digits(4)}"


def _nino(w: Writer) -> str:
    return f"{w.random.choice(('AB', 'CE', 'JH', 'PR'))} {w.digits(2)} {w.digits(2)} {w.digits(2)} C"


def _ip(w: Writer) -> str:
    return f"{w.random.randrange(11, 223)}.{w.random.randrange(256)}.{w.random.randrange(256)}.{w.digits(2)}"


def _mac(w: Writer) -> str:
    return ":".join(f"{w.random.randrange(1, 256):02X}" for _ in range(6))


def _key(w: Writer) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "sk-" + "".join(w.random.choices(letters, k=45)) + w.digits(3)


PERSONAL: dict[str, Callable[[Writer], str]] = {
    "EMAIL": _email,
    "PHONE": _phone,
    "CREDIT_CARD": _card,
    "IBAN": _iban,
    "US_SSN": _ssn,
    "UK_NINO": _nino,
    "IP_ADDRESS": _ip,
    "MAC_ADDRESS": _mac,
    "API_KEY": _key,
}
LEADS = {
    "EMAIL": "Write to",
    "PHONE": "Call me at",
    "CREDIT_CARD": "The card is",
    "IBAN": "Please pay to",
    "US_SSN": "My social security number is",
    "UK_NINO": "The national insurance number is",
    "IP_ADDRESS": "They came from",
    "MAC_ADDRESS": "The device is",
    "API_KEY": "Use the key",
}
"""How a sentence leads to it."""

"""Where the rows come from: machines (which repeat their own errors) or knowledge that will change (which retrieval
should bring). Both are pitfalls of fine-tuning rather than flaws of single rows, so only a large share is told.

Declared origin is believed; undeclared origin is guessed from phrases that language models overuse, and said to be a
guess. Dates, prices and versions count only where the input does not hold them: extracting them is no knowledge.
"""

import re
from collections.abc import Sequence

from tunesmith.quality.check import Flags, Profile, Row, counted, quote
from tunesmith.quality.report import Finding
from tunesmith.quality.signs import signs_in

GENERATED_SHARE = 0.5
"""Most rows machine-generated: the model learns from a model."""

TELLTALE_SHARE = 0.2
"""People also write "I hope this helps", but not in every fifth text."""

VOLATILE_SHARE = 0.2
"""From this share of rows that state dates, prices or versions on, knowledge is what is taught."""

DECLARING_KEYS = frozenset(
    ("source", "origin", "generator", "generated", "generated_by", "generator_model", "synthetic", "is_synthetic",
     "model", "model_name", "author", "provenance", "teacher", "created_by", "annotator", "written_by")
)  # fmt: skip
MACHINES = re.compile(
    r"\b(gpt|chatgpt|claude|gemini|llama|mistral|mixtral|qwen|deepseek|gemma|phi-\d|llm|synthetic|generated|machine|"
    r"distilled|self-instruct|evol-instruct|ai)\b|gpt-?\d|openai|anthropic",
    re.IGNORECASE,
)
BOOLEAN_KEYS = frozenset(("synthetic", "is_synthetic", "generated"))

TELLTALES = re.compile(
    r"^(certainly[!,]|sure[!,] here|absolutely[!,]|of course[!,] here|great question|i'd be happy to|here's an? )|"
    r"i hope this helps|feel free to (ask|reach)|it'?s (important|worth) (to note|noting|to remember)|"
    r"\bdelv(e|es|ing) into\b|\brich tapestry\b|\bin conclusion, |let me know if you (have|need|would like)",
)
TELLTALE_CHARACTERS = 200
"""Such phrases open and close texts."""

NUMBER = re.compile(r"[0-9][0-9.,]*")
BEFORE_NUMBER = 24
AFTER_NUMBER = 12
"""Characters around a number in which it may turn out to be a price, a date or a version."""

CURRENCY_SIGNS = frozenset("$\u20ac\u00a3\u00a5\u20b9")
CURRENCIES = frozenset(
    ("USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR", "CAD", "AUD", "SEK", "PLN", "BRL", "MXN", "dollar", "dollars",
     "euro", "euros", "cents", "yen", "rupees")
)  # fmt: skip
PRICED = re.compile(r"\b(?:costs?|prices?|fee|rates?)\b[^\d\n]{0,12}$")

YEAR = re.compile(r"(?:19|20)\d\d[.,]?")
DATED = re.compile(
    r"\b(?:jan|fe[bv]|f\u00e9v|mar|m\u00e4r|a[pvb]r|ma[iy]|ju[nil]|lug|aug|ao\u00fb|ago|sep|set|o[ck]t|ott|nov|d[ei\u00e9][cz]|gen|"
    r"ene|mag|giu)[a-z\u00e9\u00fb]*\.? (?:de )?(?:\d{1,2}(?:st|nd|rd|th)?,? )?$",
    re.IGNORECASE,
)
SINCE = re.compile(
    r"\b(?:as of|since|in|during|until|from|by|year|end of|seit|bis|ab|depuis|en|desde|q[1-4],?) $",
    re.IGNORECASE,
)
"""What stands before a year that makes it a date: a month; before one of this century also from or until when."""

DAY_BEHIND = re.compile(r"([-/.])\d{1,2}\1(?:\d\d)?\d{1,2}\b")
DOTTED_DATE = re.compile(r"\d{1,2}\.\d{1,2}\.(?:19|20)\d\d[.,]?")

VERSIONED = re.compile(
    r"(?:\b(?:version|release|firmware|update[ds]?(?: to)?|upgrade[ds]?(?: to)?) |\bv)$", re.IGNORECASE
)
SOFTWARE = frozenset(
    ("version", "ios", "android", "windows", "macos", "ubuntu", "debian", "python", "java", "php", "ruby", "node",
     "node.js", "react", "angular", "vue", "django", "rails", "kubernetes", "postgresql", "mysql", "chrome", "firefox",
     "safari", "pytorch", "tensorflow", "cuda", "gpt")
)  # fmt: skip
"""Words that make the number behind them a version."""


class ProvenanceCheck:
    """A `RowCheck`: machine-generated rows and knowledge that changes."""

    def __init__(self) -> None:
        self._declared, self._telltale, self._volatile = Flags(), Flags(), Flags()

    def observe(self, rows: Sequence[Row]) -> tuple[Flags, Flags, Flags]:
        """Rows declared to be machine-generated, rows that sound so, rows that state what changes."""
        declared, telltale, volatile = Flags(), Flags(), Flags()
        for row in rows:
            if (note := _declaration(row)) is not None:
                declared.flag(row, note)
            elif (note := _telltale(row)) is not None:
                telltale.flag(row, note)
            if (note := _changing(row)) is not None:
                volatile.flag(row, note)
        return declared, telltale, volatile

    def add(self, observed: tuple[Flags, Flags, Flags]) -> None:
        """Gather one batch."""
        for flags, more in zip((self._declared, self._telltale, self._volatile), observed, strict=True):
            flags.extend(more)

    def findings(self, profile: Profile) -> tuple[Finding, ...]:
        """A warning per pitfall the rows point to, else one pass."""
        rows = len(profile.rows)
        declared, telltale, volatile = self._declared, self._telltale, self._volatile
        facts = {
            "declared_machine_generated": declared.count,
            "signs_of_machine_generation": telltale.count,
            "changing_knowledge": volatile.count,
        }
        found = []
        generated = declared.count >= GENERATED_SHARE * rows
        if rows and (generated or telltale.count >= TELLTALE_SHARE * rows):
            flags = declared if generated else telltale
            how = "are declared to be machine-generated" if generated else "sound machine-generated (a guess)"
            found.append(
                Finding(
                    "provenance: generated",
                    "warn",
                    counted(flags.count, f"{how}: a model amplifies its teacher's errors", whole=rows),
                    count=flags.count,
                    rows=flags.notes(),
                    mend="include examples that people wrote or validated, and evaluate on those",
                    facts=facts,
                )
            )
        if rows and volatile.count >= VOLATILE_SHARE * rows:
            found.append(
                Finding(
                    "provenance: knowledge",
                    "warn",
                    counted(
                        volatile.count,
                        "state dates, prices or versions that will change: tuned models forget facts and invent others",
                        whole=rows,
                    ),
                    count=volatile.count,
                    rows=volatile.notes(),
                    mend="use retrieval for knowledge and fine-tune for behavior; see `tunesmith advise`",
                    facts=facts,
                )
            )
        finding = f"{declared.count:,} of {rows:,} rows are declared machine-generated; little knowledge that changes"
        return tuple(found) or (Finding("provenance", "pass", finding, facts=facts),)


def _declaration(row: Row) -> str | None:
    for key, value in row.conversation.metadata.items():
        if key.lower() not in DECLARING_KEYS:
            continue
        if value is True and key.lower() in BOOLEAN_KEYS:
            return f"{key}: true"
        if isinstance(value, str) and MACHINES.search(value):
            return f"{key}: {quote(value, 60)}"
    return None


def _telltale(row: Row) -> str | None:
    text = row.output
    signs = signs_in(text).get("telltale")
    if signs is None or (signs[0] >= TELLTALE_CHARACTERS and signs[1] <= len(text) - TELLTALE_CHARACTERS):
        return None
    if len(text) > 2 * TELLTALE_CHARACTERS:
        text = f"{text[:TELLTALE_CHARACTERS]}\n{text[-TELLTALE_CHARACTERS:]}"
    match = TELLTALES.search(text.lower())
    return None if match is None else f"“{match.group().strip()}”"


def _changing(row: Row) -> str | None:
    text = row.output
    signs = signs_in(text).get("volatile")
    if signs is None:
        return None
    # Numbers are found ten times faster than prices and dates; most texts have few.
    for match in NUMBER.finditer(text, max(signs[0] - BEFORE_NUMBER, 0), signs[1] + BEFORE_NUMBER):
        start, end = match.span()
        before, after = text[max(start - BEFORE_NUMBER, 0) : start], text[end : end + AFTER_NUMBER]
        if match.group().rstrip(".,") not in row.input and _will_change(before, match.group(), after):
            return quote(before + match.group() + after)
    return None


def _will_change(before: str, number: str, after: str) -> bool:
    """Whether what stands around a number makes it a price, a date or a version."""
    lead, behind = before.rstrip(), after.lstrip()
    if lead[-1:] in CURRENCY_SIGNS or behind[:1] in CURRENCY_SIGNS:
        return True
    word, unit = lead.rpartition(" ")[2], behind.partition(" ")[0].rstrip(".,;:!?)")
    if word in CURRENCIES or unit in CURRENCIES or word.lower() in SOFTWARE or before[-2:] in (" v", " V"):
        return True
    if YEAR.fullmatch(number):
        return bool(DATED.search(before) or DAY_BEHIND.match(after) or (number[0] == "2" and SINCE.search(before)))
    if after[:1] in ("/", "-") and DAY_BEHIND.match(after):
        return True
    if "." in number and (DOTTED_DATE.fullmatch(number) or VERSIONED.search(before)):
        return True
    return PRICED.search(before) is not None

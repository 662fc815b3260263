"""The literal signs behind the rules' patterns, all found in one pass over a text: an Aho-Corasick automaton.

A pattern costs tens of microseconds on a kilobyte, and clean text holds none of what it looks for. So a rule runs its
pattern only where one of its signs is; looking for all signs of all rules together takes three microseconds.
"""

import functools
from collections.abc import Mapping

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

SIGNS: dict[str, tuple[str, ...]] = {
    "refusal": (
        "as an ai", "as a language", "as a large", "an artificial", "m an ai", "am an ai", "just an ai", "only an ai",
        "language model", "sorry", "afraid", "i can", "i won", "unable", "not able", "decline", "knowledge cut",
        "training data", "as of my", "personal ", "real-time", "to browse", "openai", "anthropic",
        "appropriate for me", "als ki", "als ein ki", "sprachmodell", "tut mir leid", "leider ", "en tant qu", "désolé",
        "como modelo de", "como un modelo de", "lo siento", "modello linguistico", "mi dispiace", "desculpe", "lamento",
        "sinto muito",
    ),
    "template": (
        "<|", "s>", "inst]", "sys>>", "_of_turn>", "<pad>", "<unk>", "ction:", "onse:", "nput:", "uman:", "ai:", "ant:",
        "ser:",
    ),
    "telltale": (
        "certainly!", "certainly,", "sure! here", "sure, here", "absolutely!", "absolutely,", "of course! here",
        "of course, here", "great question", "happy to", "here's a", "hope this helps", "feel free to", "important to ",
        "worth noting", "worth to ", "delv", "tapestry", "in conclusion, ", "let me know if you",
    ),
    "volatile": (
        "$", "€", "£", "¥", "₹", "usd", "eur", "gbp", "chf", "jpy", "cny", "inr ", "cad ", "aud ", "sek ", "pln ",
        "brl ", "mxn", "dollar", "euro", "cents", " yen", "rupee", "cost", "price", " fee", "rate of ", "rates of ",
        "19", "20", "version ", "release ", "firmware ", "update", "upgrade", "windows 1", "ios ", "android ", "macos ",
        "ubuntu ", "debian ", "python ", "java ", "php ", "ruby ", "node ", "node.js ", "react ", "angular ", "vue ",
        "django ", "rails ", "kubernetes ", "postgresql ", "mysql ", "chrome ", "firefox ", "safari ", "pytorch ",
        "tensorflow ", "cuda ", "gpt ", *(f"v{digit}" for digit in range(10)),
    ),
    "control": tuple(map(chr, (*range(9), 11, 12, *range(14, 32), 127, 0x200B, 0xFEFF))),
}  # fmt: skip
"""Rule → lower-case texts, one of which is in everything that the rule's pattern matches."""


@functools.lru_cache(maxsize=1_024)  # a batch: several checks look at its outputs, one check after another
def signs_in(text: str) -> Mapping[str, tuple[int, int]]:
    """The rules with a sign in `text` and, in characters, where the first of them begins and the last one ends."""
    found: dict[str, tuple[int, int]] = {}
    automaton, rules = _automaton()
    encoded = text.lower().encode("utf-8", "replace")  # lone surrogates have no form in UTF-8
    for sign, start, end in automaton.find_matches_as_indexes(encoded, overlapping=True):
        if not text.isascii():
            start, end = len(encoded[:start].decode()), len(encoded[:end].decode())
        rule = rules[sign]
        first, last = found.get(rule, (start, end))
        found[rule] = (min(first, start), max(last, end))
    return found


@functools.cache
def _automaton() -> tuple[BytesAhoCorasick, tuple[str, ...]]:
    # Over bytes: over texts, it would work out the place of each character, which takes as long again.
    rules = tuple(rule for rule, signs in SIGNS.items() for _ in signs)
    signs = [sign.encode() for signs in SIGNS.values() for sign in signs]
    return BytesAhoCorasick(signs, matchkind=MatchKind.Standard, implementation=Implementation.DFA), rules

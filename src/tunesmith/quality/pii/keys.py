"""Keys and tokens: what lets anybody in who reads it. Each is told by its maker's prefix, or by the word before it.

To add a maker, add its line to `KEY_PREFIXES`.
"""

import re

from tunesmith.quality.pii import validators
from tunesmith.quality.pii.rule import Rule

PRIVATE_KEY = Rule(
    "PRIVATE_KEY",
    re.compile(
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?"
        r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)",
        re.DOTALL,
    ),
)

KEY_PREFIXES: tuple[tuple[str, str], ...] = (
    ("AKIA", r"AKIA[0-9A-Z]{16}"),
    ("ASIA", r"ASIA[0-9A-Z]{16}"),
    ("AIza", r"AIza[\w-]{35}"),
    ("sk-", r"sk-(?:proj-|ant-|svcacct-|or-)?[\w-]{20,}"),
    ("sk_", r"sk_(?:live|test)_\w{16,}"),
    ("rk_", r"rk_(?:live|test)_\w{16,}"),
    ("pk_", r"pk_(?:live|test)_\w{16,}"),
    ("ghp_", r"ghp_\w{36,}"),
    ("gho_", r"gho_\w{36,}"),
    ("ghu_", r"ghu_\w{36,}"),
    ("ghs_", r"ghs_\w{36,}"),
    ("ghr_", r"ghr_\w{36,}"),
    ("github_pat_", r"github_pat_\w{40,}"),
    ("glpat-", r"glpat-[\w-]{20,}"),
    ("xox", r"xox[abeoprs]-[\w-]{10,}"),
    ("hf_", r"hf_[A-Za-z0-9]{30,}"),
    ("npm_", r"npm_\w{36}"),
    ("pypi-", r"pypi-[\w-]{50,}"),
    ("whsec_", r"whsec_[A-Za-z0-9+/]{24,}"),
    ("ya29.", r"ya29\.[\w-]{30,}"),
    ("gsk_", r"gsk_[A-Za-z0-9]{40,}"),
    ("xai-", r"xai-[A-Za-z0-9]{60,}"),
    ("r8_", r"r8_[A-Za-z0-9]{37}"),
    ("dckr_pat_", r"dckr_pat_[\w-]{24,}"),
    ("shpat_", r"shpat_[0-9a-fA-F]{32}"),
    ("shpss_", r"shpss_[0-9a-fA-F]{32}"),
    ("sq0", r"sq0(?:atp-[\w-]{22}|csp-[\w-]{43})"),
    ("lin_api_", r"lin_api_[A-Za-z0-9]{40}"),
    ("ntn_", r"ntn_[A-Za-z0-9]{40,}"),
    ("hooks.slack.com/", r"hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{20,}"),
    ("dop_v1_", r"dop_v1_[0-9a-f]{64}"),
    ("SG.", r"SG\.[\w-]{16,}\.[\w-]{16,}"),
    ("AC", r"AC[0-9a-f]{32}"),
    ("SK", r"SK[0-9a-f]{32}"),
    ("key-", r"key-[0-9a-f]{32}"),
    ("-us", r"[0-9a-f]{32}-us\d{1,2}"),
    ("pat", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"),
    ("dapi", r"dapi[0-9a-f]{32}"),
    ("sbp_", r"sbp_[0-9a-f]{40}"),
    ("dp.", r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9]{40,}"),
    ("PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    ("nvapi-", r"nvapi-[\w-]{60,}"),
    ("pplx-", r"pplx-[A-Za-z0-9]{40,}"),
    ("glsa_", r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}"),
    (":AA", r"\d{8,10}:AA[\w-]{33}"),
    ("AccountKey=", r"AccountKey=[A-Za-z0-9+/]{86}=="),
    ("eyJ", r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
)
"""What tells the documented keys of AWS, Google, OpenAI, Anthropic, Stripe, GitHub, GitLab, Slack, Hugging Face, npm,
PyPI, Groq, xAI, Replicate, Docker, Shopify, Square, Linear, Notion, DigitalOcean, SendGrid, Twilio, Mailgun, Mailchimp,
Airtable, Databricks, Supabase, Doppler, Postman, NVIDIA, Perplexity, Grafana, Telegram and Azure, and JSON web tokens;
the first part alone, mostly a prefix, is the cheap test."""

LETTERS_ONLY = "hf_"
"""Hugging Face's keys may have no digit."""

PREFIXED_KEYS = tuple(
    (
        prefix,
        Rule(
            "API_KEY",
            re.compile(rf"(?<![\w-]){form}(?!\w)"),
            validators.is_varied if prefix == LETTERS_ONLY else validators.is_random,
        ),
    )
    for prefix, form in KEY_PREFIXES
)
DISCORD_TOKEN = Rule(
    "API_KEY",
    re.compile(r"(?<![\w.-])[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,40}(?![\w-])"),  # ids in base64 begin so
    validators.is_random,
)
ASSIGNED_KEY = Rule(
    "API_KEY",
    re.compile(
        r"(?i:api[_ -]?key|access[_ -]?key|secret(?:[_ -]?key)?|auth[_ -]?token|access[_ -]?token|token|password"
        r"|passwd|bearer)[\"']?(?:\s*(?:[:=]|is)\s*|\s+)[\"']?(?P<value>[A-Za-z0-9+/_-]{20,}={0,2})(?![\w-])"
    ),
    validators.is_random,
    words=("key", "secret", "token", "passw", "bearer"),
)

"""Personal data: what is found (`find_pii`), how it is recognized (rules, validators) and who confirms it (names)."""

from tunesmith.quality.pii.scan import PiiSpan, find_pii

__all__ = ["PiiSpan", "find_pii"]

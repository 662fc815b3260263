"""Blind side-by-side evaluation by people: what is compared, where judgements are kept, what they say, and the page."""

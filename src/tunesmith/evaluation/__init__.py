"""Did it help: base against tuned on the same held-out rows, with intervals and verdicts in words."""

"""Tunesmith: fine-tune only when it pays, and prove that it did."""

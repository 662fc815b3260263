"""Rows: one `Conversation` type, the formats that carry it, rendering to tokens, and splitting."""

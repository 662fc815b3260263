"""OpenAI's wire over the server's functions: one file per group of paths."""

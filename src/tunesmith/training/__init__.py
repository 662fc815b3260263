"""The engine: one loop that turns an objective's batches into optimizer steps."""

"""What the parameters learn from: one file per objective."""

"""From a run folder to weights other programs load."""

"""Should this be fine-tuned at all: prompt, examples and retrieval measured first, then the decision."""

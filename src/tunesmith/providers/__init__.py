"""Fine-tuning at hosted providers: the same run spec, trained on somebody else's hardware."""

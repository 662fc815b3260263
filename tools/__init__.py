"""Builds what `tunesmith.assets` carries: the corpus, the tokenizer, the embedded model and the sample data sets."""

"""Base models and the parameters that learn on them."""

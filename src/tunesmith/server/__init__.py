"""The OpenAI-compatible server: files, durable fine-tuning jobs, models and chat on your own machine."""

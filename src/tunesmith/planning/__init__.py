"""What it will take: memory, cost and hyperparameters, each with its reason."""

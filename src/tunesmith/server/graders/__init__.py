"""OpenAI's graders: what scores the replies of a reinforcement job. One file per kind of work that a grader does."""

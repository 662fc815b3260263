"""The whole workflow on the embedded model and its ticket data set."""

"""The verbs, one function each: the command line, the demo and the server call these and only these."""

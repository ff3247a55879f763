"""Compare the ways that this machine offers to a graph, with the messages of its user."""

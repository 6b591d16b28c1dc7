"""Arguments of calls: packed sequences and what a call holds per token."""

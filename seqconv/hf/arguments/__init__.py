"""Arguments of calls: which are known, and which say where packed sequences begin."""

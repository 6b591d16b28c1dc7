"""The reduced protocol, and the negative controls that it must distinguish from correct models."""

"""The reduced protocol, and the negative controls that it must tell from the right models."""

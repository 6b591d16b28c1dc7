"""The reduced protocol, and the negative controls that it must tell from the correct models."""

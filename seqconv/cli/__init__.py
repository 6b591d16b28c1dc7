"""The ``seqconv`` command."""

"""Readers of recurrent layers."""

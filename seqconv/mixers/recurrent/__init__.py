"""Recurrent mixers: moving averages, gated linear recurrences and sequential cells."""

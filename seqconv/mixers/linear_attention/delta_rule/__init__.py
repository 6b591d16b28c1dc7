"""Mixers on the delta rule: a matrix state that every token corrects, with decays per head or key channel."""

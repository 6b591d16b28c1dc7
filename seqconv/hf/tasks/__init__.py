"""Models of one task each: language, classification, choices."""

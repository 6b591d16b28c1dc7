"""Language modelling: the next byte or word of running text."""

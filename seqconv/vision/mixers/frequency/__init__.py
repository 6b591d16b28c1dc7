"""2-D mixers in the spectrum of the image."""

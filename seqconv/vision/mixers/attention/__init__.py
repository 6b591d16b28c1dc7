"""2-D mixers of attention: between channels, with a decay by distance, of windows."""

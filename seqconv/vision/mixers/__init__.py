"""One 2-D mixer, or a few of one family, a file."""

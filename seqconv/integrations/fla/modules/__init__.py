"""The modules of fla that its layers are made of."""

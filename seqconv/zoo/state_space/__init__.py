"""Published models that scan images with state spaces."""

"""Image models with maps of features for transformers: backbone, classifier, semantic segmentation."""

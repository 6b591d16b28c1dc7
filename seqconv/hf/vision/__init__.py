"""Image models with feature maps for transformers: backbone, classifier, semantic segmentation."""

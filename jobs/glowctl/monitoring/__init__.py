"""`glowctl watch`: evidence that a stream of images no longer belongs to what a model was trained on."""

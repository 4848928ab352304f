"""Evaluations of a trained model: NLL, samples, interpolation, out-of-distribution detection."""

"""Matplotlib figures of trainings and evaluations (`pictures`), ablations (`comparison`) and drifts (`corruptions`)."""

"""Matplotlib figures of trainings and evaluations (`pictures`) and ablations (`comparison`)."""

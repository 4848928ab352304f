"""Ablations: many trainings as trials of Ray Tune, compared with error bars."""

"""`glowctl prune`: which models are no longer needed (`plan`), and how they are deleted (`run`, `folders`)."""

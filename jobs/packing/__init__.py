"""`glowctl pack`: images become a packed data set, which `glow.datasets.packed` reads."""

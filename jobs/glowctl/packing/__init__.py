"""`glowctl pack`: write images as a packed data set, which `glow.datasets.packed` reads.

`plan` divides the images into shards and checks the destination; `run` writes the shards on Ray Data.
"""

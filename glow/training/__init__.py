"""The training of flows: the loop (`trainer`), its batches, objective, augmentation, schedule and random streams.

`glow.fit` and `glow.Trainer` are the way in. Importing this package imports no torch.
"""

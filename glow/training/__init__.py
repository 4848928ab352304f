"""The training of flows: the loop (`trainer`), its batches, its objective and its random numbers.

`glow.fit` and `glow.Trainer` are the way in. Importing this package imports no torch.
"""

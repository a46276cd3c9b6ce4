"""Pools that are read as they are needed."""

import numpy as np


class Reader:
    """A pool that counts what is read of it."""

    def __init__(self, emb):
        self.emb, self.n_read = emb, np.zeros(len(emb), int)
        self.lengths, self.dim, self.dtype = emb.lengths, emb.dim, emb.dtype
        self.mean_squared_norm = emb.mean_squared_norm

    def __len__(self):
        return len(self.emb)

    def read(self, examples):
        self.n_read[examples] += 1
        return self.emb.read(examples)

__version__ = "0.1.0"

def load(path, device="cpu", trust=False):
    """A trained model from a checkpoint of ours or of the authors, ready for `localize`: see `slavc.train.released.load`."""
    from slavc.train.released import load
    return load(path, device, trust)

"""From a trained network to a packed one; needs torch, which running a packed network does not."""

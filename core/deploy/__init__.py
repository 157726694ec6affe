"""Packed networks: what they are, their file, how they run; imports no torch.

network = load("model.bnn")
logits = network.run(x)  # x: inputs as in training, (batch, *shape) of uint8 or float32
"""

from core.deploy.backends import info
from core.deploy.form import Form, FormError
from core.deploy.network import PackedNetwork, load, save
from core.deploy.plain import FileError

__all__ = ["FileError", "Form", "FormError", "PackedNetwork", "info", "load", "save"]

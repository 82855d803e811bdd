"""The names under which public trainers import RAdam; PyTorch's own does the work.

Its first steps, while the rectification is not defined, are SGD with momentum, as with ``degenerated_to_sgd=True``.
"""

from torch.optim import AdamW, RAdam

__all__ = ["AdamW", "PlainRAdam", "RAdam"]

PlainRAdam = RAdam  # there the same update, written without a buffer

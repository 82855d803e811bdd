"""A loader whose images travel as bytes: a quarter of the floats, from the workers and to the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

SENT = "_bytes"  # what is added to the name of an image that is still bytes


class BytesLoader(DataLoader):
    """Batches whose images are float32 and normalised, on ``device``, as if the transform had made them.

    ``normalize`` follows the division by 255. Images that come as floats are left as they are, where they are.
    """

    def __init__(
        self, dataset: Dataset, *args: Any, device: torch.device, normalize: v2.Normalize | None = None, **kwargs: Any
    ) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.device = device
        shape = (-1, 1, 1)  # (3, 1, 1)
        mean, std = (normalize.mean, normalize.std) if normalize else ([0.0], [1.0])
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(shape)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).view(shape)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        return (batch if batch is None else self._finished(batch) for batch in super().__iter__())

    def _finished(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            name.removesuffix(SENT): self._floats(value) if name.endswith(SENT) else value
            for name, value in batch.items()
        }

    def _floats(self, image: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """(B, 3, H, W) uint8 -> float32; of a list of views each."""
        if not isinstance(image, Tensor):
            return [self._floats(view) for view in image]
        image = image.to(self.device, non_blocking=True).to(torch.float32).div_(255)
        return image.sub_(self.mean).div_(self.std)


def collate_readable(items: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """A batch of the items that could be read; ``None`` if there are none."""
    readable = [item for item in items if item is not None]
    return default_collate(readable) if readable else None

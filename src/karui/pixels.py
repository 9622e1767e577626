"""Pixels: how bytes from a camera become the numbers that a network was trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """``real = (byte · scale − mean[c]) / std[c]``; one mean and std per channel."""

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same as ``byte · factor[c] + offset[c]``: two float32 arrays of shape [C]."""
        std = np.asarray(self.std, np.float64)
        return (self.scale / std).astype(np.float32), (-np.asarray(self.mean, np.float64) / std).astype(np.float32)

    def normalise(self, pixels: NDArray[np.uint8], *, axis: int) -> NDArray[np.float32]:
        """Bytes to floats; ``axis`` is where the channels are."""
        factor, offset = self.affine()
        shape = [1] * pixels.ndim
        shape[axis] = -1
        return pixels.astype(np.float32) * factor.reshape(shape) + offset.reshape(shape)

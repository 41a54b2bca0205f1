"""What a camera makes of a rendered image: colour, noise, lost depth.

- rgb' = contrast (saturated - 1/2) + 1/2 + brightness + noise, clipped and rounded to 8 bits, where
  `saturated` lies between the pixel's grey (Rec. 601) and its colour, 1 being the colour.
- Depth that is lost reads 0, as on structured-light cameras.
- Noise and lost pixels come from the generator of the episode; an episode without them draws
  nothing. At nominal values an image passes through bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

IMAGE_NOMINAL: Mapping[str, float] = {
    "brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "noise": 0.0, "depth_dropout": 0.0,
}  # fmt: skip
"""What rendered images go through when nothing is changed."""
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def develop(rgb: Pixels, look: Mapping[str, float], rng: np.random.Generator) -> Pixels:
    """An image (H, W, 3) as the camera gives it."""
    if all(look[name] == IMAGE_NOMINAL[name] for name in look if name != "depth_dropout"):
        return rgb
    image = rgb.astype(np.float32) / np.float32(255.0)
    grey = (image * _GREY).sum(axis=2, keepdims=True)
    image = grey + np.float32(look["saturation"]) * (image - grey)
    image = np.float32(look["contrast"]) * (image - np.float32(0.5)) + np.float32(0.5)
    image += np.float32(look["brightness"])
    if look["noise"] > 0.0:
        drawn = rng.standard_normal(image.shape, dtype=np.float32)
        image += np.float32(look["noise"]) * drawn
    return np.asarray(np.round(np.float32(255.0) * np.clip(image, 0.0, 1.0)), dtype=np.uint8)


def lose(depth: Depth, dropout: float, rng: np.random.Generator) -> Depth:
    """A depth image (H, W) [m] with a share of its pixels at 0."""
    if dropout <= 0.0:
        return depth
    return np.where(rng.random(depth.shape) < dropout, np.float32(0.0), depth)

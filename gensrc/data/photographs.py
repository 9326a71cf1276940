"""Two photographs, as content pictures for style transfer."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gensrc.data.handwriting import as_levels


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs of one size."""

    images: Float[Tensor, "n 3 height width"] | UInt8[Tensor, "n 3 height width"]
    names: tuple[str, ...]
    attributions: tuple[str, ...]  # to be shown wherever the photograph, or what was made of it, is shown

    def __len__(self) -> int:
        return len(self.names)


def photographs(*, dtype: torch.dtype = torch.float32) -> Photographs:
    """A temple in China and a dahlia, 3x427x640, as they come with scikit-learn.

    dtype: torch.float32 for levels in [0, 1], torch.uint8 for 0 to 255. Levels may differ by 1 of 255 where JPEG files
    are decoded by another library.

    Raises ValueError for another dtype.
    """
    from sklearn.datasets import load_sample_image  # slow to import

    stored = np.stack([load_sample_image(f"{name}.jpg") for name in ATTRIBUTIONS])
    images = torch.from_numpy(stored).permute(0, 3, 1, 2).contiguous()
    return Photographs(as_levels(images, dtype), tuple(ATTRIBUTIONS), tuple(ATTRIBUTIONS.values()))


ATTRIBUTIONS = {
    "china": "Photograph by danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035, CC BY 2.0",
    "flower": "Photograph by vultilion, https://www.flickr.com/photos/vultilion/6056698931, CC BY 2.0",
}

"""The Haar wavelet transform of images, one level.

Why it exists: StyleSwin's discriminator looks at images in the wavelet domain, where the seams that attention leaves
between windows stand out (arXiv 2112.10762, section 3.4; the idea is SWAGAN's, Gal et al., arXiv 2102.06108).

Every 2 × 2 block of pixels p q / r s of a channel becomes four numbers, half the sum with two signs turned or none:

    ll = (p + q + r + s) / 2    lh = (p + q - r - s) / 2    hl = (p - q + r - s) / 2    hh = (p - q - r + s) / 2

The transform is orthogonal: it keeps the sum of squares, and its transpose inverts it.

Difference from the official code (`HaarTransform` of `models/discriminator.py`, see `styleswin.py`): sums and
differences of slices where that has four convolutions with 2 × 2 filters; the same numbers, nothing to count.
"""

from __future__ import annotations

import torch
from torch import Tensor


def haar_transform(x: Tensor) -> Tensor:
    """Images [b, c, h, w], h and w even → [b, 4 c, h / 2, w / 2]: all ll channels, then all lh, hl, hh."""
    above, below = x[:, :, 0::2], x[:, :, 1::2]
    bands = []
    for rows in (above + below, above - below):
        left, right = rows[..., 0::2], rows[..., 1::2]
        bands.append((left + right, left - right))
    (ll, hl), (lh, hh) = bands
    return torch.cat((ll, lh, hl, hh), dim=1) * 0.5

"""The embedded data set: scikit-learn's handwritten digits, 1,797 grey images of 8 x 8 pixels in 10 classes.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its
test part); it comes with scikit-learn and needs no network.
"""

import numpy as np

from allmlp.data.collection import Collection
from allmlp.data.source import ArraySource


def open_digits() -> Collection:
    """All digits with the project's fixed split: 80 % training, 20 % validation (360), stratified, seed 0.

    The values 0 to 16 are scaled to 0 to 255; the transform brings the images to the model's size.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    held_out = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)[1]
    return Collection(
        kind="digits",
        classes=[str(digit) for digit in range(10)],
        source=ArraySource("digits", images, labels),
        is_val=np.isin(np.arange(len(labels)), held_out),
    )

"""Writes scikit-learn's 1,797 handwritten digits as PNG files: make_digits.py OUT_DIR.

OUT_DIR/train/0 ... OUT_DIR/train/9 and OUT_DIR/val/0 ... OUT_DIR/val/9, 8x8 pixels, greyscale. Every fifth digit of a
class is held out in val, so the split is stratified and the same on every machine. No network: the digits are part of
scikit-learn.
"""
import pathlib
import sys

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write(out):
    digits = load_digits()
    seen = np.zeros(10, int)
    counts = {"train": 0, "val": 0}
    for image, label in zip(digits.images, digits.target):
        part = "val" if seen[label] % 5 == 4 else "train"
        folder = out / part / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.round(image * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{seen[label]:03}.png")
        seen[label] += 1
        counts[part] += 1
    return counts


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    counts = write(pathlib.Path(sys.argv[1]))
    print(f"make_digits: {counts['train']} training and {counts['val']} held-out digits in {sys.argv[1]}")

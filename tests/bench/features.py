"""`make bench BENCH=features`: decoding, resizing and feature extraction of images.

Images are PNG files at 256 px; resnet18 levels 2–3 with random weights, one image at a time, one
thread. The floor is the convolutional network alone, without rounding, pooling or copies.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
from measure import Row, Table, interleave, main, matmul_rate, memory_rate

COUNT, SIDE = 16, 256


def write_images(folder: Path) -> list[Path]:
    """Write smooth noise as PNG files, which compress as photographs do."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(COUNT):
        noise = cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), (0, 0), 2)
        paths.append(folder / f"{index}.png")
        cv2.imwrite(str(paths[-1]), noise)
    return paths


def tables(repeats: int) -> list[Table]:
    import timm
    import torch

    from vqlab.features import Backbone, FeatureSettings
    from vqlab.pixels.decoding import read_image

    settings = FeatureSettings(backbone="resnet18", levels=(2, 3), weights="random")
    backbone = Backbone(settings, SIDE)
    network = timm.create_model("resnet18", features_only=True, out_indices=(2, 3)).eval()
    channels_last = timm.create_model("resnet18", features_only=True, out_indices=(2, 3)).eval()
    channels_last.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        paths = write_images(Path(folder))
        images = torch.rand(COUNT, 3, SIDE, SIDE)
        cases = {
            "decode": lambda: [read_image(path) for path in paths],
            "decode (OpenCV)": lambda: [cv2.imread(str(path)) for path in paths],
            "extract": lambda: backbone(images),
            "network": lambda: [network(image[None]) for image in images],
            "channels last": lambda: [
                channels_last(image[None].to(memory_format=torch.channels_last)) for image in images
            ],
        }
        rates = {name: m.rate(COUNT) for name, m in interleave(cases, repeats).items()}
    unit = "images per CPU-s"
    return [
        Table(
            "Feature extraction",
            f"{COUNT} images of {SIDE} px, resnet18 levels 2–3, batch 1.",
            [
                Row(
                    "read an image file",
                    rates["decode"],
                    rates["decode (OpenCV)"],
                    "cv2.imread",
                    unit=unit,
                ),
                Row(
                    "images → pyramid",
                    rates["extract"],
                    rates["network"],
                    "network alone",
                    rates["channels last"],
                    "network alone, channels last",
                    unit=unit,
                ),
            ],
        ),
        Table(
            "Floors of the machine",
            "Float32, one thread.",
            [
                Row("matrix multiplication 1024³", matmul_rate(), unit="GFLOP per CPU-s"),
                Row("copy 256 MiB (read + written)", memory_rate(), unit="GB per CPU-s"),
            ],
        ),
    ]


if __name__ == "__main__":
    main(tables)

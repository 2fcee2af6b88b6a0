"""Small stand-ins for published datasets on disk, one function each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from folders import make_category, write_image, write_mask
from PIL import Image

SIZE = (20, 24)


def make_mvtec_ad_2(root: Path, name: str = "can", train: int = 6, validation: int = 3) -> Path:
    """Write a category of MVTec AD 2; return its folder."""
    folder = root / name
    for number in range(train):
        write_image(folder / f"train/good/{number:03d}_regular.png", number)
    for number in range(validation):
        write_image(folder / f"validation/good/{number:03d}_regular.png", 100 + number)
    for number in range(2):
        write_image(folder / f"test_public/good/{number:03d}_regular.png", 200 + number)
        stem = f"{number:03d}_overexposed"
        write_image(folder / f"test_public/bad/{stem}.png", 300 + number)
        write_mask(folder / f"test_public/ground_truth/bad/{stem}_mask.png")
        write_image(folder / f"test_private/{number:03d}.png", 400 + number)
        write_image(folder / f"test_private_mixed/{number:03d}.png", 500 + number)
    return folder


def write_defect(path: Path, box: tuple[slice, slice], value: int) -> None:
    """Write a mask of MVTec LOCO: a rectangle of `value` on 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(SIZE, np.uint8)
    pixels[box] = value
    Image.fromarray(pixels).save(path)


LOCO_DEFECTS: list[dict[str, Any]] = [
    {
        "defect_name": "missing_part",
        "pixel_value": 255,
        "saturation_threshold": 30,
        "relative_saturation": False,
    },
    {
        "defect_name": "scratch",
        "pixel_value": 254,
        "saturation_threshold": 1.0,
        "relative_saturation": True,
    },
]


def make_mvtec_loco(root: Path, name: str = "pushpins") -> Path:
    """Write a category of MVTec LOCO AD with one image with two defects and one with a single
    defect; return its folder."""
    folder = root / name
    for split, count in (("train/good", 6), ("validation/good", 3), ("test/good", 2)):
        for number in range(count):
            write_image(folder / f"{split}/{number:03d}.png", hash_of(split) + number)
    write_image(folder / "test/logical_anomalies/000.png", 300)
    write_image(folder / "test/structural_anomalies/000.png", 400)
    logical, structural = (
        folder / f"ground_truth/{kind}_anomalies/000" for kind in ("logical", "structural")
    )
    write_defect(logical / "000.png", np.s_[2:12, 2:12], 255)
    write_defect(logical / "001.png", np.s_[10:14, 10:14], 254)
    write_defect(structural / "000.png", np.s_[5:9, 4:8], 254)
    (folder / "defects_config.json").write_text(json.dumps(LOCO_DEFECTS))
    return folder


def hash_of(text: str) -> int:
    return sum(text.encode()) * 1000


def make_btad(root: Path) -> Path:
    """Write product 01 of BTAD; return its folder."""
    folder = make_category(root, "01", kind="ko", suffix="")
    (folder / "train/good").rename(folder / "train/ok")
    (folder / "test/good").rename(folder / "test/ok")
    for path in [*folder.glob("train/*/*"), *folder.glob("test/*/*")]:
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
        path.unlink()
    return folder


def make_kolektor_sdd2(root: Path) -> Path:
    """Write KolektorSDD2 with 6 normal and 1 anomalous images in train, 2 and 2 in test, and the
    copies that its archive has; return its folder."""
    folder = root / "KolektorSDD2"
    for split, normal, anomalous in (("train", 6, 1), ("test", 2, 2)):
        start = 10_000 if split == "train" else 20_000
        for number in range(start, start + normal + anomalous):
            write_image(folder / f"{split}/{number}.png", number)
            marked = 255 if number >= start + normal else 0
            write_mask(folder / f"{split}/{number}_GT.png", value=marked)
    for suffix in ("", "_GT"):
        source = folder / f"train/10000{suffix}.png"
        (folder / f"train/10000{suffix} (copy).png").write_bytes(source.read_bytes())
    return folder


def make_real_iad(root: Path, name: str = "audiojack") -> Path:
    """Write a category of Real-IAD with a list of all views, of the top view and one with a noisy
    training set; return the folder of the dataset."""
    root = root / "Real-IAD"
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for sample in range(8):
        split, kind = ("test" if sample > 4 else "train"), "NG/AK" if sample == 7 else "OK"
        for view in (1, 2):
            stem = f"{kind}/S{sample:04d}/{name}_{sample:04d}_C{view}"
            write_image(root / f"realiad_1024/{name}/{stem}.jpg", 10 * sample + view)
            anomalous = sample == 7 and view == 1  # not visible from the other view
            if anomalous:
                write_mask(root / f"realiad_1024/{name}/{stem}.png")
            entries[split].append(
                {
                    "category": name,
                    "anomaly_class": "AK" if anomalous else "OK",
                    "image_path": f"{stem}.jpg",
                    "mask_path": f"{stem}.png" if anomalous else None,
                }
            )
    top = {key: [e for e in each if "_C1" in e["image_path"]] for key, each in entries.items()}
    noisy = {**entries, "train": [*entries["train"], entries["test"][-2]]}
    meta = {"prefix": f"{name}/", "normal_class": "OK"}
    for lists, splits in (("", entries), ("_sv", top), ("_fuiad_0.1", noisy)):
        path = root / f"realiad_jsons{lists}/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"meta": meta, **splits}))
    return root

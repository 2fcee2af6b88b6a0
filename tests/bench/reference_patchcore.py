"""anomalib's PatchCore on a dataset: fit, score and evaluate; the reference of whole commands.

`python tests/bench/reference_patchcore.py DATA VECTORS`: DATA is a dataset folder in the layout of
MVTec AD, from which one model of all categories learns; VECTORS is the size of its coreset, which
is selected from 250,000 random patches. Prints CPU-seconds of each stage and the metrics as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure import cpu_seconds

SIDE, BATCH, PATCHES = 256, 16, 250_000


def read_rgb(path: Path) -> Any:
    """Return an image (3, 256, 256) float32 in [0, 1]."""
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    resized = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized.transpose(2, 0, 1), np.float32) / 255


def read_mask(path: Path, data: Path) -> Any:
    """Return the mask of a test image, (256, 256) bool."""
    category, _, defect, name = path.relative_to(data).parts
    file = data / category / "ground_truth" / defect / f"{Path(name).stem}_mask.png"
    if defect == "good":
        return np.zeros((SIDE, SIDE), np.bool_)
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0


def batches(paths: Sequence[Path]) -> Iterator[Any]:
    """Yield normalised images, a batch at a time."""
    import torch

    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    for start in range(0, len(paths), BATCH):
        images = np.stack([read_rgb(path) for path in paths[start : start + BATCH]])
        yield (torch.from_numpy(images) - shift) / scale


def build(weights: Path | None) -> Any:
    """Return a PatchCore on resnet18, with random weights or a state dict."""
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(("layer2", "layer3"), "resnet18", pre_trained=False)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        model.feature_extractor.feature_extractor.load_state_dict(state)
    return model


def run(data: Path, vectors: int, weights: Path | None) -> dict[str, Any]:
    """Return CPU-seconds by stage and mean metrics."""
    import torch

    torch.manual_seed(0)
    stages, clock = {}, cpu_seconds()

    def stage(name: str) -> None:
        nonlocal clock
        stages[name], clock = cpu_seconds() - clock, cpu_seconds()

    model = build(weights)
    stage("import")
    with torch.inference_mode():
        model.train()
        for images in batches(sorted(data.glob("*/train/good/*"))):
            model(images)
        stage("training features")
        rows = torch.vstack(model.embedding_store)
        model.embedding_store[:] = [rows[torch.randperm(len(rows))[:PATCHES]]]
        model.subsample_embedding((vectors + 0.5) / len(model.embedding_store[0]))
        stage("coreset")
        model.eval()
        tests = sorted(data.glob("*/test/*/*"))
        results = [model(images) for images in batches(tests)]
    maps = np.concatenate([result.anomaly_map[:, 0].numpy() for result in results])
    scores = np.concatenate([result.pred_score.flatten().numpy() for result in results])
    stage("test scores")
    metrics = evaluate(data, tests, maps, scores)
    stage("metrics")
    return {"stages": stages, "metrics": metrics}


def evaluate(data: Path, tests: Sequence[Path], maps: Any, scores: Any) -> dict[str, float]:
    """Return the mean over categories of image AUROC, pixel AUROC and AUPRO, by adeval."""
    if not hasattr(np, "trapz"):  # adeval 1.1.0 calls it; NumPy 2.4 renamed it
        np.trapz = np.trapezoid
    from adeval import EvalAccumulator

    names = np.array([path.relative_to(data).parts[0] for path in tests])
    values = []
    for name in np.unique(names):
        chosen = np.flatnonzero(names == name)
        part = maps[chosen]
        bounds = (scores.min(), scores.max(), part.min(), part.max())
        accumulator = EvalAccumulator(*map(float, bounds), skip_pixel_aupro=False)
        for index in chosen:
            mask = read_mask(tests[index], data)
            accumulator.add_anomap(maps[index], mask.astype(np.uint8))
            accumulator.add_image(float(scores[index]), int(mask.any()))
        summary = accumulator.summary()
        values.append([summary[key] for key in ("i_auroc", "p_auroc", "p_aupro")])
    return dict(zip(("image_auroc", "pixel_auroc", "aupro"), np.mean(values, 0), strict=True))


if __name__ == "__main__":
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), folder), default=float))

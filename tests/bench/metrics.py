"""`make bench BENCH=metrics`: our metrics beside other libraries' and one reading of the bytes.

Every row runs in a process of its own on the same maps, warmed up on two of them. CPU-seconds are
user + system of one thread, the best of several rounds; extra memory is the peak beyond what lay in
memory before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")})

import cv2
import numpy as np

COUNT = 100
SIZES = (256, 1024)


def inputs(count: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, side, side) float32 of smooth noise; every other with 1 to 4 raised ellipses."""
    rng = np.random.default_rng(seed)
    maps = np.empty((count, side, side), np.float32)
    masks = np.zeros((count, side, side), np.bool_)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    for i in range(count):
        small = cv2.GaussianBlur(rng.standard_normal((side // 8,) * 2, np.float32), (0, 0), 2)
        smooth = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
        maps[i] = smooth / smooth.std() + 0.05 * rng.standard_normal((side, side), np.float32)
        for _ in range(rng.integers(1, 5) if i % 2 else 0):
            cx, cy, a, b = *rng.uniform(0.15, 0.85, 2), *rng.uniform(0.03, 0.09, 2)
            inside = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
            masks[i] |= inside
            maps[i][inside] += rng.uniform(1, 3)
    return maps, masks


Result = dict[str, float]


def floor(maps: np.ndarray, masks: np.ndarray) -> Result:
    return {"highest": float(maps.max()), "any": float(masks.any())}


def ours(maps: np.ndarray, masks: np.ndarray) -> Result:
    from vqlab.metrics import PixelStream, image_metrics, rates

    stream = PixelStream(threshold=1.0)
    for start in range(0, len(maps), 8):
        stream.update(maps[start : start + 8], masks[start : start + 8])
    found = stream.compute()
    image = image_metrics(maps.max((1, 2)), masks.any((1, 2)))
    bounds = {f"±{name}": bound for name, bound in found.bounds.items()}
    return found.metrics | rates("pixel", stream.at) | image | bounds


def exact(maps: np.ndarray, masks: np.ndarray) -> Result:
    from vqlab.metrics import image_metrics
    from vqlab.metrics.summary import pixel_metrics

    image = image_metrics(maps.max((1, 2)), masks.any((1, 2)))
    return pixel_metrics(list(maps), list(masks)) | image


def adeval(maps: np.ndarray, masks: np.ndarray) -> Result:
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid
    from adeval import EvalAccumulator

    low, high = float(maps.min()), float(maps.max())
    made = EvalAccumulator(low, high, low, high)
    for values, mask in zip(maps, masks, strict=True):
        made.add_image(float(values.max()), int(mask.any()))
        made.add_anomap(values, mask.astype(np.uint8))
    found = made.summary()
    return {"pixel_auroc": found["p_auroc"], "pixel_ap": found["p_aupr"], "aupro": found["p_aupro"]}


def scikit_learn(maps: np.ndarray, masks: np.ndarray) -> Result:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = maps.ravel(), masks.ravel()
    return {
        "pixel_auroc": float(roc_auc_score(labels, scores)),
        "pixel_ap": float(average_precision_score(labels, scores)),
    }


ROWS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Result], str]] = {
    "floor": (floor, "each byte read once"),
    "vqlab": (ours, "pixel + image AUROC, AP, F1max, AUPRO 0.30 and 0.05, at a threshold; bounds"),
    "vqlab exact": (exact, "the same by sorting, not at a threshold"),
    "adeval": (adeval, "pixel + image AUROC, AP, AUPRO"),
    "scikit-learn": (scikit_learn, "pixel AUROC and AP"),
}


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def timed(work: Callable[[], Result], repeats: int = 3) -> tuple[float, float, Result]:
    """Best CPU-seconds, peak MiB beyond now, and what came out."""
    best, found = float("inf"), {}
    forget_peak()
    before = peak_mib()
    for _ in range(repeats):
        start = time.process_time()
        found = work()
        best = min(best, time.process_time() - start)
    return best, peak_mib() - before, found


def run_row(name: str, side: int) -> None:
    maps, masks = inputs(COUNT, side)
    work, what = ROWS[name]
    try:
        work(maps[:2], masks[:2])
    except ImportError:
        print(f"{name:13} {side:5}²  not installed (pip install {name})")
        return
    repeats = 1 if name == "scikit-learn" else 3 if side > 256 else 15
    seconds, extra, found = timed(lambda: work(maps, masks), repeats)
    shown = " ".join(
        f"{k} {found[k]:.6f}" for k in ("pixel_auroc", "pixel_ap", "aupro") if k in found
    )
    print(f"{name:13} {side:5}²  {seconds:7.3f} CPU-s  {extra:7.1f} MiB  {shown}  [{what}]")
    if name == "vqlab":
        by_sorting = exact(maps, masks)
        for metric in ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_005"):
            error = abs(found[metric] - by_sorting[metric])
            print(
                f"{'':22} {metric:12} bound {found[f'±{metric}']:.1e}, observed error {error:.1e}"
            )


def run_whole(name: str) -> None:
    from vqlab.metrics import Evidence, PixelStream, distributions, image_metrics, resample

    maps, masks = inputs(COUNT, 256)
    if name == "bootstrap":
        maps, masks = np.concatenate([maps, maps]), np.concatenate([masks, masks])
        labels, scores = masks.any((1, 2)).astype(int), maps.max((1, 2))
        images = PixelStream(keep_images=True).update(maps, masks).images

        def work() -> Result:
            evidence = Evidence.of(scores, labels, scores > 3, images)
            return {k: float(v[0]) for k, v in distributions(evidence, resample(labels)).items()}

        what = "1,000 resamples of 200 images: every image and pixel metric, AUPRO among them"
    else:
        total = {"mvtec": 1725, "10000": 10_000}[name]

        def work() -> Result:
            stream = PixelStream()
            for i in range(total):
                stream.update([maps[i % COUNT]], [masks[i % COUNT]])
            return stream.compute().metrics | image_metrics(np.arange(4), [0, 0, 1, 1])

        what = f"{total} maps of 256² in one stream"
        PixelStream().update(maps[:2], masks[:2]).compute()
    seconds, extra, _ = timed(work, 1)
    print(f"{name:20}  {seconds:7.3f} CPU-s  {extra:7.1f} MiB  [{what}]")


WHOLE = ("mvtec", "10000", "bootstrap")


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--row":
        run_row(sys.argv[2], int(sys.argv[3]))
        return
    if len(sys.argv) == 3 and sys.argv[1] == "--whole":
        run_whole(sys.argv[2])
        return
    print(f"{COUNT} maps, half with defects; one thread; CPU-s and peak memory beyond the maps")
    calls = [["--row", name, str(side)] for side in SIZES for name in ROWS]
    for call in [*calls, *(["--whole", name] for name in WHOLE)]:
        subprocess.run([sys.executable, __file__, *call], check=True)


if __name__ == "__main__":
    main()

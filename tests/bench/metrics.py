"""`make bench BENCH=metrics`: the metrics of vqlab, compared with ADEval and scikit-learn.

Every measurement runs in a separate process on the same maps, after a warm-up on two of them. Peak
memory excludes the maps. The lower bound reads each byte once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from measure import Measured, Row, Table, main, run_process

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
    result = stream.compute()
    image = image_metrics(maps.max((1, 2)), masks.any((1, 2)))
    bounds = {f"±{name}": bound for name, bound in result.bounds.items()}
    return result.metrics | rates("pixel", stream.at) | image | bounds


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
    metrics = EvalAccumulator(low, high, low, high)
    for pixels, mask in zip(maps, masks, strict=True):
        metrics.add_image(float(pixels.max()), int(mask.any()))
        metrics.add_anomap(pixels, mask.astype(np.uint8))
    values = metrics.summary()
    return {
        "pixel_auroc": values["p_auroc"],
        "pixel_ap": values["p_aupr"],
        "aupro": values["p_aupro"],
    }


def scikit_learn(maps: np.ndarray, masks: np.ndarray) -> Result:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = maps.ravel(), masks.ravel()
    return {
        "pixel_auroc": float(roc_auc_score(labels, scores)),
        "pixel_ap": float(average_precision_score(labels, scores)),
    }


def stream_of(total: int) -> Callable[[np.ndarray, np.ndarray], Result]:
    """Metrics of `total` maps of 256 px in one stream."""

    def work(maps: np.ndarray, masks: np.ndarray) -> Result:
        from vqlab.metrics import PixelStream, image_metrics

        stream = PixelStream()
        for i in range(total if len(maps) == COUNT else 2):
            stream.update([maps[i % len(maps)]], [masks[i % len(maps)]])
        return stream.compute().metrics | image_metrics(np.arange(4), [0, 0, 1, 1])

    return work


def bootstrap(maps: np.ndarray, masks: np.ndarray) -> Result:
    """1,000 resamples of 200 images: every image and pixel metric."""
    from vqlab.metrics import Evidence, PixelStream, distributions, resample

    maps, masks = np.concatenate([maps, maps]), np.concatenate([masks, masks])
    labels, scores = masks.any((1, 2)).astype(int), maps.max((1, 2))
    images = PixelStream(keep_images=True).update(maps, masks).images
    evidence = Evidence.of(scores, labels, scores > 3, images)
    return {k: float(v[0]) for k, v in distributions(evidence, resample(labels)).items()}


CASES: dict[str, Callable[[np.ndarray, np.ndarray], Result]] = {
    "floor": floor,
    "vqlab": ours,
    "exact": exact,
    "adeval": adeval,
    "scikit-learn": scikit_learn,
    "mvtec": stream_of(1725),
    "10000": stream_of(10_000),
    "bootstrap": bootstrap,
}


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def run_case(name: str, side: int) -> None:
    """Measure one case in this process and print the result as JSON."""
    maps, masks = inputs(COUNT, side)
    CASES[name](maps[:2], masks[:2])
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    memory, started = peak_mib(), time.process_time()
    values = CASES[name](maps, masks)
    seconds = time.process_time() - started
    print(json.dumps({"seconds": seconds, "peak": peak_mib() - memory, "values": values}))


def measure(names: list[str], side: int, repeats: int) -> tuple[dict[str, Measured], Result]:
    """Return the cost of each case, interleaved, and the metrics of the first."""
    results: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            command = [sys.executable, __file__, "--case", name, str(side)]
            output = run_process(command, env={"PYTHONWARNINGS": "ignore"})[3]
            results[name].append(json.loads(output))
    costs = {
        name: Measured.of((r["seconds"] for r in runs), max(r["peak"] for r in runs))
        for name, runs in results.items()
    }
    return costs, results[names[0]][0]["values"]


def tables(repeats: int) -> list[Table]:
    rows, notes = [], []
    for side in SIZES:
        costs, values = measure(["vqlab", "adeval", "floor", "exact"], side, repeats)
        what = f"{side}²: pixel and image AUROC, AP, F1max, AUPRO at 0.30 and 0.05"
        fast = (costs["adeval"], "adeval, AUROC, AP, AUPRO")
        rows.append(Row(what, costs["vqlab"], *fast, costs["floor"], "bytes read once"))
        slow = measure(["scikit-learn"], side, 1)[0] if side == SIZES[0] else {}
        by_sorting = (slow.get("scikit-learn"), "scikit-learn, AUROC and AP" if slow else "")
        rows.append(Row(f"{what}, exact", costs["exact"], *by_sorting))
        bounds = [f"{k[1:]} {v:.1e}" for k, v in values.items() if k.startswith("±")]
        notes.append(f"Bounds of the error at {side}²: {', '.join(bounds)}.")
    streams, _ = measure(["mvtec", "10000", "bootstrap"], 256, 1)
    rows.append(Row("1,725 maps of 256² in one stream", streams["mvtec"]))
    rows.append(Row("10,000 maps of 256² in one stream", streams["10000"]))
    rows.append(Row("1,000 resamples of 200 images, all metrics", streams["bootstrap"]))
    inputs_text = f"{COUNT} maps, half with 1 to 4 defects."
    return [Table("Metrics", inputs_text, rows, notes)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        run_case(sys.argv[2], int(sys.argv[3]))
    else:
        main(tables, repeats=3)

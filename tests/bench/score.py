"""`make bench BENCH=score`: scoring an image, from decoded pixels to verdict, compared with
anomalib.

256 px, resnet18 levels 2–3, one image at a time, one thread. Images are those of MVTec AD bottle if
VQLAB_REAL_DATA is set, otherwise of the synthetic cable; weights are those of VQLAB_WEIGHTS,
otherwise random. Banks are coresets of the patches of these images; flows are not trained, which
does not change their cost.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import Row, Table, interleave, main

BANK, SIDE, COUNT = 5000, 256, 8
UNIT = "images per CPU-s"


def splits_of() -> Any:
    from vqlab.data import DataSettings, load_dataset

    real = os.environ.get("VQLAB_REAL_DATA")
    has_bottle = real and (Path(real) / "MVTec" / "bottle").is_dir()
    root = Path(str(real)) / "MVTec" if has_bottle else None
    categories = ("bottle",) if has_bottle else ("cable",)
    return load_dataset(DataSettings(root=root, categories=categories, image_size=SIDE))


def _weights() -> str:
    folder = os.environ.get("VQLAB_WEIGHTS")
    return "hub" if folder and list(Path(folder).glob("resnet18*")) else "random"


def model_of(splits: Any, name: str, settings: dict[str, Any]) -> Any:
    """Return a model whose codes come from the training images."""
    import torch

    from vqlab.data import DataSettings
    from vqlab.evaluation import Thresholds
    from vqlab.features import Backbone, FeatureSet, FeatureSettings
    from vqlab.model import Model, build_detector

    cpu = torch.device("cpu")
    torch.manual_seed(0)
    features = FeatureSettings(backbone="resnet18", levels=(2, 3), weights=_weights(), cache=False)
    backbone = Backbone(features, SIDE)
    detector = build_detector({"name": name, **settings}, backbone.spec)
    samples = FeatureSet(splits.train, backbone, cpu)
    detector.prepare(samples)
    if name == "vqflow":
        detector.train()
        detector.loss(next(iter(samples)))  # k-means of the pattern codes
        detector.calibrate(samples.subset(range(32)), samples.subset(range(32, 64)))
    meta = {"data": {"categories": list(splits.categories)}, "config": {}}
    data = DataSettings(image_size=SIDE)
    return Model(detector.eval(), backbone, data, Thresholds(0.0, 0.0), meta, cpu)


def _anomalib(model: Any) -> dict[str, Callable[[Any], Any]]:
    """Return PatchCore with the bank of `model`, and Fastflow, as functions of pixels."""
    import torch
    from anomalib.models.image.fastflow.torch_model import FastflowModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    patchcore = PatchcoreModel(["layer2", "layer3"], backbone="resnet18", pre_trained=False).eval()
    patchcore.memory_bank = model.detector.bank.clone()
    state = model.backbone.network.model.state_dict()
    patchcore.feature_extractor.feature_extractor.load_state_dict(state, strict=False)
    fastflow = FastflowModel((SIDE, SIDE), "resnet18", pre_trained=False).eval()
    mean, std = model.backbone.network.mean, model.backbone.network.std

    def score(network: Any, pixels: Any) -> Any:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        return network((image - mean) / std).anomaly_map.numpy()

    return {
        "PatchCore": lambda pixels: score(patchcore, pixels),
        "Fastflow": lambda pixels: score(fastflow, pixels),
    }


def _of_detector(model: Any) -> Callable[[Any], Any]:
    """Return detector and backbone alone, as a function of pixels."""
    import torch

    from vqlab.types import Sample

    def score(pixels: Any) -> Any:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        return model.detector.score(Sample(image, model.backbone(image)))

    return score


def _floors(model: Any) -> dict[str, Callable[[Any], Any]]:
    """Return the network alone in several engines, as functions of pixels."""
    import openvino
    import torch

    network = model.backbone.network
    example = torch.zeros(1, 3, SIDE, SIDE)
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    converted = openvino.convert_model(network, example_input=example)
    compiled = openvino.Core().compile_model(converted, "CPU", settings)

    def image(pixels: Any) -> Any:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)[None] / 255

    return {
        "torch": lambda pixels: network(torch.from_numpy(image(pixels))),
        "OpenVINO": lambda pixels: compiled(image(pixels)),
    }


def tables(repeats: int) -> Iterator[Table]:
    import torch

    splits = splits_of()
    bank = model_of(splits, "memory_bank", {"bank_size": BANK})
    compiled = replace(bank, backbone=copy.deepcopy(bank.backbone)).use_engine("openvino")
    vqflow = model_of(splits, "vqflow", {})
    small = {"pattern": {"coverage_kind": "per_concept", "coverage": 1000}}
    by_concept = model_of(splits, "vqflow", small)
    by_concept_compiled = replace(by_concept, backbone=compiled.backbone)
    pixels = [bank.read(record.path) for record in splits.test.records[:: len(splits.test) // 8]]
    pixels = [np.ascontiguousarray(image) for image in pixels[:COUNT]]
    functions = {
        "memory_bank": bank.score,
        "memory_bank alone": _of_detector(bank),
        "bank, OpenVINO": compiled.score,
        "vqflow": vqflow.score,
        "by concept": by_concept.score,
        "by concept, OpenVINO": by_concept_compiled.score,
        "vqflow alone": _of_detector(vqflow),
        **_anomalib(bank),
        **_floors(bank),
    }
    cases = {
        name: lambda function=function: [function(image) for image in pixels]
        for name, function in functions.items()
    }
    with torch.inference_mode():
        measured = interleave(cases, repeats)
    rate = {name: value.rate(len(pixels)) for name, value in measured.items()}
    floor = max(("torch", "OpenVINO"), key=lambda name: rate[name].median)
    rows = [
        Row(what, rate[ours], rate[other], name, rate[floor], f"backbone ({floor})", unit=UNIT)
        for what, ours, other, name in (
            ("memory_bank, `Model.score`", "memory_bank", "PatchCore", "anomalib PatchCore"),
            ("same, engine openvino", "bank, OpenVINO", "PatchCore", "anomalib PatchCore"),
            ("vqflow, `Model.score`", "vqflow", "Fastflow", "anomalib Fastflow"),
            ("same, 1,000 codes per concept", "by concept", "Fastflow", "anomalib Fastflow"),
            ("same, and openvino", "by concept, OpenVINO", "Fastflow", "anomalib Fastflow"),
            ("memory_bank, `Model.score`", "memory_bank", "memory_bank alone", "detector+backbone"),
            ("vqflow, `Model.score`", "vqflow", "vqflow alone", "detector+backbone"),
        )
    ]
    inputs = (
        f"{len(pixels)} test images of {', '.join(splits.categories)}, {pixels[0].shape[1]} × "
        f"{pixels[0].shape[0]} px, batch 1; bank of {BANK} vectors; weights {_weights()}."
    )
    yield Table("Scoring from decoded pixels", inputs, rows)


if __name__ == "__main__":
    main(tables)

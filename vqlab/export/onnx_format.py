"""Write a traced model as an ONNX file with a batch dimension of any size."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch.export import ExportedProgram

from vqlab.errors import UserError
from vqlab.runtime import KEY

INPUTS, OUTPUTS = ["image"], ["anomaly_map", "image_score"]
OPSET = 18
MOST_BYTES = 2**31 - 1
"""Largest protobuf message."""


def write_onnx(program: ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    """Write the graph of `ScoringGraph` for batches, with its description in the metadata.

    Raises UserError if the model is larger than an ONNX file can be.
    """
    size = sum(value.nbytes for value in program.state_dict.values())
    if size > MOST_BYTES:
        raise UserError(
            f"an ONNX file must be below 2 GB; the model has {size / 1e9:.1f} GB; use --format "
            "torchscript, or train a smaller model."
        )
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["one_image"], output_names=["one_map", "one_score"],
            )  # fmt: skip
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert exported is not None
    model = batched(exported.model_proto)
    helper.set_model_props(model, {KEY: json.dumps(description)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def batched(single: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that scans a batch (B, 3, H, W) with the graph of one image (3, H, W)."""
    graph = single.graph
    for node in graph.node:  # traces of the source code, with paths of this machine
        node.ClearField("metadata_props")
    body = helper.make_graph(graph.node, "one", graph.input, graph.output, graph.initializer)
    scan = helper.make_node("Scan", INPUTS, OUTPUTS, body=body, num_scan_inputs=len(INPUTS))
    inputs, outputs = (
        [_of_batch(name, value) for name, value in zip(names, values, strict=True)]
        for names, values in ((INPUTS, graph.input), (OUTPUTS, graph.output))
    )
    return helper.make_model(
        helper.make_graph([scan], "vqlab", inputs, outputs),
        opset_imports=single.opset_import,
        ir_version=single.ir_version,
        producer_name="vqlab",
    )


def _of_batch(name: str, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])

"""Writes workloads as ONNX training graphs: export_models.py FOLDER NAME... Runs in the environment of PyTorch."""
import pathlib
import sys

import numpy
import torch

import networks
import workloads

OPSET = 17
OPSET_OF_ORT = 15  # onnxruntime-training 1.19 cannot prepare the LayerNormalization of later ones


def export(name, path, opset):
    inputs, _ = workloads.arrays(numpy, name, 2)
    names = ["x"] if len(inputs) == 1 else ["ids", "mask"]
    axes = {n: {0: "N"} | ({1: "S"} if len(inputs) > 1 else {}) for n in names} | {"logits": {0: "N"}}
    part = path.with_suffix(".part")
    torch.onnx.export(networks.build(name), tuple(map(torch.from_numpy, inputs)), str(part), opset_version=opset,
                      input_names=names, output_names=["logits"], dynamic_axes=axes, dynamo=False,
                      do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING)
    part.replace(path)


folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    for path, opset in ((folder / f"{name}.onnx", OPSET), (folder / f"{name}_ort.onnx", OPSET_OF_ORT)):
        if not path.exists() and (opset == OPSET or name == "minilm"):
            export(name, path, opset)

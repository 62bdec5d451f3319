"""Makes onnxruntime's training files: prepare_ort.py FOLDER NAME... Runs in its environment.

Everything that is a float tensor is trained, but the running statistics of BatchNormalization.
"""
import pathlib
import sys

import onnx
from onnxruntime.training import artifacts

folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    out = folder / f"{name}_ort"
    if (out / "checkpoint").exists():
        continue
    source = folder / f"{name}_ort.onnx"
    model = onnx.load(source if source.exists() else folder / f"{name}.onnx")
    statistics = {i for node in model.graph.node if node.op_type == "BatchNormalization" for i in node.input[3:5]}
    weights = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    out.mkdir(parents=True, exist_ok=True)
    artifacts.generate_artifacts(model, artifact_directory=str(out), loss=artifacts.LossType.CrossEntropyLoss,
                                 optimizer=artifacts.OptimType.AdamW,
                                 requires_grad=[w for w in weights if w not in statistics],
                                 frozen_params=[w for w in weights if w in statistics])

"""Compares `graft run` with onnxruntime: forward.py GRAFT MODELS_DIR [NAME...]."""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

from support import MODELS, Checks, Graft, make_inputs

from inference_form import inference_form  # found through support

TOLERANCE = 1e-4


def onnxruntime_outputs(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs)))


def check_model(graft, checks, path):
    model = onnx.load(path)
    reference_model = inference_form(model)
    for batch in (1, 3):
        inputs = make_inputs(path.stem, model, batch, seed=batch)
        references = onnxruntime_outputs(reference_model, inputs)
        outputs = graft.run(path, inputs, mode="infer")
        for name, reference in references.items():
            got = outputs.get(name)
            case = f"{path.stem} batch {batch}: {name}"
            same = got is not None and (got.shape, got.dtype) == (reference.shape, reference.dtype)
            if checks.expect(same, f"{case} has shape {reference.shape} and {reference.dtype}"):
                error = np.abs(got - reference).max() / np.abs(reference).max()
                checks.expect(error <= TOLERANCE, f"{case} within {error:.1e} of onnxruntime")


def main():
    graft, folder = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    for name in sys.argv[3:] or MODELS:
        path = folder / f"{name}.onnx"
        try:
            report = json.loads(graft("inspect", path, "--json"))
            checks.expect(isinstance(report, dict), f"{name}: inspect --json gives an object")
            check_model(graft, checks, path)
        except (RuntimeError, ValueError) as error:
            checks.expect(False, f"{name}: {error}")
    checks.finish()


main()

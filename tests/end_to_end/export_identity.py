"""What training leaves untouched comes out as it went in: export_identity.py GRAFT MODELS_DIR.

After zero steps the exported file equals the original in every field; with all but the head frozen only the head's
tensors differ; onnx.checker and onnxruntime accept every export.
"""
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

from support import Checks, Graft, make_inputs, write_samples

from inference_form import inference_form  # found through support

CLASSES = {"small_mlp": 4, "small_cnn": 4, "block": 4, "mlp": 10, "ppocr_cls": 2, "open_nsfw": 2, "magika": 214,
           "mobilenet_v2": 10, "minilm_classifier": 4}
# Globs of the last layer, and the file's tensors that they stand for.
HEADS = {
    "small_mlp": ("2.*", {"2.weight", "2.bias"}),
    "small_cnn": ("fc.*", {"fc.weight", "fc.bias"}),
    "block": ("classifier.*", {"classifier.weight", "classifier.bias"}),
    "ppocr_cls": ("fc_0.*", {"fc_0.w_0", "fc_0.b_0"}),
    "open_nsfw": ("fc_nsfw/*", {"fc_nsfw/MatMul/ReadVariableOp:0", "fc_nsfw/BiasAdd/ReadVariableOp:0"}),
    "mobilenet_v2": ("classifier.1.*", {"classifier.1.weight", "classifier.1.bias"}),
}


def tensors(model):
    """All stored tensors by name, as protos, so that a change of representation shows too."""
    found = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
    return found


def difference(before, after):
    """Where two models differ, in words; empty when they are equal in every field."""
    if before == after:
        return ""
    parts = [f.name for f in before.DESCRIPTOR.fields if getattr(before, f.name) != getattr(after, f.name)]
    parts += ["graph." + f.name for f in before.graph.DESCRIPTOR.fields
              if getattr(before.graph, f.name) != getattr(after.graph, f.name)]
    return ", ".join(parts) or "unknown fields"


def without(model, names):
    """A copy of the model in which the named tensors have no data."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    found = tensors(model)
    for name in names:
        found[name].ClearField("raw_data")
        found[name].ClearField("float_data")
    return model


def runs(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(inference_form(model).SerializeToString(), options)
    return all(np.isfinite(output).all() for output in session.run(None, inputs))


def train(graft, name, path, out, *arguments):
    model = onnx.load(path)
    inputs = make_inputs(name, model, batch=8, seed=3)
    labels = np.arange(8) % CLASSES[name]
    data = graft.folder / f"{name}.npz"
    write_samples(data, inputs, labels)
    graft("train", "--model", path, "--data", data, "--val-split", "0", "--batch-size", "4", "--out", out, *arguments)
    exported = onnx.load(out / "model.onnx")
    onnx.checker.check_model(exported)
    return model, exported, {key: array[:2] for key, array in inputs.items()}


def check_zero_steps(graft, checks, name, path):
    before, after, inputs = train(graft, name, path, graft.folder / f"{name}-zero", "--max-steps", "0")
    changed = difference(before, after)
    checks.expect(not changed, f"{name}: zero steps leave every field {changed or 'as it was'}")
    checks.expect(runs(after, inputs), f"{name}: onnxruntime runs the export")


def check_head_only(graft, checks, name, path):
    glob, head = HEADS[name]
    before, after, inputs = train(graft, name, path, graft.folder / f"{name}-head", "--max-steps", "3", "--lr", "0.01",
                                  "--train", glob)
    old, new = tensors(before), tensors(after)
    changed = {key for key in old if old[key] != new.get(key)} | (set(new) - set(old))
    checks.expect(changed == head, f"{name}: training the head changed {sorted(changed)}")
    rest = difference(without(before, head), without(after, head))
    checks.expect(not rest, f"{name}: all else is {rest or 'as it was'}")
    checks.expect(runs(after, inputs), f"{name}: onnxruntime runs the export")


def main():
    graft, folder = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    for name in sys.argv[3:] or CLASSES:
        path = folder / f"{name}.onnx"
        for check in [check_zero_steps] + [check_head_only] * (name in HEADS):
            try:
                check(graft, checks, name, path)
            except (RuntimeError, OSError, onnx.checker.ValidationError) as error:
                checks.expect(False, f"{name}: {error}")
    checks.finish()


main()

"""Checks that stock onnxruntime computes what Graft computes: compare_onnxruntime.py GRAFT MODEL.onnx IMAGE_DIR.

Runs the model on images of the folder (one sub-folder per class, in the order of the classes), once in onnxruntime and
once with `graft run`, and compares the outputs and, where the model ends in Softmax, the logits before it. The largest
difference may be 1e-4 of the largest output.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from PIL import Image

TOLERANCE = 1e-4


def with_logits(model):
    """A copy that also returns the input of a final Softmax."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(model.graph.output[0].name)
    while node is not None and node.op_type == "Identity":
        node = producers.get(node.input[0])
    if node is not None and node.op_type == "Softmax":
        model.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    return model


def input_size(model, default):
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return [d if d > 0 else size for d, size in zip(dims[2:], default)]


def load_images(folder, height, width, mean, std, limit):
    """NCHW float32 in RGB, and labels; `limit` images spread over the folder."""
    classes = sorted(d for d in folder.iterdir() if d.is_dir())
    files = [(file, label) for label, d in enumerate(classes) for file in sorted(d.iterdir())]
    files = files[::max(1, len(files) // limit)][:limit]
    images = [np.asarray(Image.open(f).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)) for f, _ in files]
    x = (np.stack(images).astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return x.transpose(0, 3, 1, 2).copy(), np.array([label for _, label in files])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graft")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("--size", type=int, nargs=2, default=[48, 192], help="height and width where the model has none")
    parser.add_argument("--mean", type=float, default=0.5)
    parser.add_argument("--std", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=64, help="number of images")
    args = parser.parse_args()

    model = with_logits(onnx.load(args.model))
    height, width = input_size(model, args.size)
    x, labels = load_images(args.images, height, width, args.mean, args.std, args.limit)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x}
    theirs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))
    with tempfile.TemporaryDirectory() as folder:
        copy, inputs, outputs = (f"{folder}/{name}" for name in ("model.onnx", "in.npz", "out.npz"))
        onnx.save(model, copy)
        np.savez(inputs, **feeds)
        subprocess.run([args.graft, "run", copy, "--inputs", inputs, "--outputs", outputs], check=True)
        with np.load(outputs) as arrays:
            ours = dict(arrays)

    failed = False
    for name, reference in theirs.items():
        error = np.abs(ours[name] - reference).max() / np.abs(reference).max()
        failed |= not error <= TOLERANCE
        print(f"{name}: largest difference {error:.1e} of the largest output, allowed {TOLERANCE:.0e}")
    accuracy = (next(iter(theirs.values())).argmax(1) == labels).mean()
    print(f"onnxruntime classifies {accuracy:.1%} of {len(labels)} images correctly (this script's own resizing)")
    sys.exit(failed)


if __name__ == "__main__":
    main()

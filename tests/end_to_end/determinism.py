"""Bits of whole networks under training, by `graft run --vjp`: determinism.py GRAFT MODELS_DIR.

Two runs with the same number of threads give the same bits. One and two threads do so for all but the gradients of
convolutions' weights, which oneDNN adds up in one part a thread.
"""
import os
import pathlib
import sys

import numpy as np
import onnx

from support import Checks, Graft, make_inputs

BATCH = 2


def results(graft, model, name, inputs, cotangents, threads):
    paths = {part: graft.folder / f"{part}.npz" for part in ("inputs", "outputs", "cotangents")}
    np.savez(paths["inputs"], **inputs)
    np.savez(paths["cotangents"], **cotangents)
    # oneDNN's kernels for AVX2 on every machine: which of them split their sums is theirs to choose.
    done = graft.call("run", model, "--inputs", paths["inputs"], "--outputs", paths["outputs"], "--vjp",
                      paths["cotangents"], "--mode", "train", "--threads", threads,
                      env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    with np.load(paths["outputs"]) as arrays:
        return dict(arrays)


def differing(a, b):
    assert a.keys() == b.keys()
    return {name for name in a if a[name].tobytes() != b[name].tobytes()}


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    for name in ("mlp", "resnet18", "mobilenet_v2", "minilm"):
        path = models / f"{name}.onnx"
        model = onnx.load(path)
        inputs = make_inputs(name, model, BATCH)
        outputs = graft.run(path, inputs, mode="train")
        rng = np.random.default_rng(1)
        cotangents = {o.name: rng.standard_normal(outputs[o.name].shape).astype(np.float32) for o in model.graph.output}
        alone, together, again = (results(graft, path, name, inputs, cotangents, threads) for threads in (1, 2, 2))
        checks.expect(not differing(together, again), f"{name}: two runs give the same bits of {len(again)} arrays")
        weights = {f"grad:{n.input[1]}" for n in model.graph.node if n.op_type == "Conv"}
        differ = differing(alone, together)
        checks.expect(differ <= weights, f"{name}: one and two threads give the same bits but for {len(differ)} of "
                      f"{len(weights)} weights of convolutions {sorted(differ - weights) or ''}")
    checks.finish()


main()

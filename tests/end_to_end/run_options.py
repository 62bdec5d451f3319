"""The flags of `graft run`: run_options.py GRAFT MODELS_DIR."""
import json
import os
import pathlib
import sys

import numpy as np

from hostile_models import model
from support import Checks, Graft, refused

USAGE, DATA = 2, 4
TWO_INPUTS = "g (float[N, ?, 3] x, int64[N] i, bool[2] b) => (float[N, ?, 3] y, int64[N] j, bool[2] c) "


def write_model(graft):
    proto = model(TWO_INPUTS.replace("?", "K") + "{ y = Relu(x)  j = Identity(i)  c = Not(b) }")
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "?"
    path = graft.folder / "inputs.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def check_filling(graft, checks):
    path, out = write_model(graft), graft.folder / "out.npz"

    def run(*arguments):
        report = json.loads(graft("run", path, "--outputs", out, "--json", *arguments))
        with np.load(out) as arrays:
            arrays = dict(arrays)
        described = {o["name"]: tuple(o["dims"]) for o in report["outputs"]}
        checks.expect(described == {key: a.shape for key, a in arrays.items()} and report["planned_peak_bytes"] > 0,
                      f"--json describes {described}")
        return arrays

    zeros = run("--inputs", "zeros")
    checks.expect(zeros["y"].shape == (1, 1, 3) and not zeros["y"].any() and zeros["c"].all(), "zeros: free dims are 1")
    first = run("--inputs", "random", "--dim", "N=400", "--dim", "x.1=5")
    checks.expect(first["y"].shape == (400, 5, 3) and first["j"].shape == (400,), "--dim by name and by place")
    share, mean = (first["y"] > 0).mean(), first["y"].mean()
    checks.expect(abs(share - 0.5) < 0.05 and abs(mean - 0.399) < 0.04,  # of max(x, 0): 1/sqrt(2 pi)
                  f"random is normal: {share:.2f} above 0, mean {mean:.3f}")
    checks.expect(set(np.unique(first["j"])) == {0, 1} and abs(first["j"].mean() - 0.5) < 0.1, "integers are 0 and 1")
    again = run("--inputs", "random", "--dim", "N=400", "--dim", "x.1=5")
    other = run("--inputs", "random", "--dim", "N=400", "--dim", "x.1=5", "--seed", 7, "--threads", 1)
    checks.expect((first["y"] == again["y"]).all() and (first["y"] != other["y"]).any(), "--seed decides")


def check_double(graft, checks, models):
    path = models / "small_mlp.onnx"
    x = np.random.default_rng(0).standard_normal((3, 12))
    single = graft.run(path, {"x": x.astype(np.float32)}, {"logits": np.ones((3, 4), np.float32)})
    double = graft.run(path, {"x": x}, {"logits": np.ones((3, 4))}, double=True)
    checks.expect(all(a.dtype == np.float32 for a in single.values()), "float32 throughout")
    checks.expect(all(a.dtype == np.float64 for a in double.values()), "--double: float64 throughout")
    rounded = graft.run(path, {"x": x.astype(np.float32)}, double=True)["logits"]
    checks.expect(np.abs(rounded - double["logits"]).max() < 1e-5 and (rounded != double["logits"]).any(),
                  "--double takes float32 too")


def check_gradients(graft, checks):
    """Zeros where nothing flows, and one for every float input."""
    path = graft.folder / "flow.onnx"
    path.write_bytes(model("g (float[2] x, float[2] z, int64[2] i) => (float[2] y, int64[2] j) "
                           "{ y = Exp(x)  j = Identity(i) }").SerializeToString())
    inputs = {"x": np.array([0, 1], np.float32), "z": np.ones(2, np.float32), "i": np.array([1, 2])}
    outputs = graft.run(path, inputs, {"y": np.array([2, 3], np.float32)})
    checks.expect(set(outputs) == {"y", "j", "grad:x", "grad:z"}, f"arrays {sorted(outputs)}")
    checks.expect(np.allclose(outputs["grad:x"], [2, 3 * np.e]) and not outputs["grad:z"].any(), "gradients")


def check_disabled(graft, checks, models):
    out = graft.folder / "disabled.npz"

    def logits(*flags):
        graft("run", models / "small_cnn.onnx", "--inputs", "random", "--dim", "N=5", "--outputs", out, *flags)
        with np.load(out) as arrays:
            return arrays["logits"]
    on, off = logits(), logits("--disable", "all")
    checks.expect(np.abs(on - off).max() <= 1e-5 * np.abs(on).max(), "--disable all computes the same")
    done = graft.call("run", models / "small_cnn.onnx", "--inputs", "zeros", "--outputs", out,
                      env=os.environ | {"GRAFT_DISABLE": "winograd,gelo"})
    checks.expect(done.returncode == USAGE and '"gelu"' in done.stderr, f"GRAFT_DISABLE=gelo: {done.stderr.strip()}")


def check_refusals(graft, checks, models):
    folder = graft.folder / "refusals"
    folder.mkdir()
    mlp, out = models / "small_mlp.onnx", folder / "out.npz"
    out.write_text("what was here before")
    np.savez(folder / "in.npz", x=np.zeros((2, 12), np.float32))
    np.savez(folder / "ct.npz", logits=np.zeros((2, 4)))
    filled = ["run", mlp, "--outputs", out, "--inputs", "zeros"]
    arrays = ["run", mlp, "--outputs", out, "--inputs", folder / "in.npz"]
    cases = {"--dim twice": (filled + ["--dim", "N=2", "--dim", "N=2"], USAGE, "twice"),
             "--dim of another name": (filled + ["--dim", "M=2"], USAGE, '"N"'),
             "--dim by place where there is a name": (filled + ["--dim", "x.0=2"], USAGE, '"N"'),
             "--dim without a number": (filled + ["--dim", "N=two"], USAGE, "N=two"),
             "--dim beyond 64 bits": (filled + ["--dim", "N=99999999999999999999"], USAGE, "NAME=N"),
             "--dim whose bytes do not fit 64 bits": (filled + ["--dim", f"N={2**62}"], USAGE, "too large"),
             "--dim with arrays": (arrays + ["--dim", "N=2"], USAGE, "arrays"),
             "--disable of what is none": (filled + ["--disable", "sofmax"], USAGE, '"softmax"'),
             "--threads 0": (filled + ["--threads", "0"], USAGE, "--threads"),
             "a mode that is none": (filled + ["--mode", "trian"], USAGE, "train"),
             "float64 cotangents": (arrays + ["--vjp", folder / "ct.npz"], DATA, "float(2,4)")}
    for name, (arguments, code, word) in cases.items():
        refused(graft, checks, name, arguments, {code}, folder, word)
    done = graft.call(*filled, "--dim", f"N={2**40}")
    checks.expect(done.returncode == 1 and "MiB" in done.stderr, f"more than the machine has: {done.stderr.strip()}")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    check_filling(graft, checks)
    check_double(graft, checks, models)
    check_gradients(graft, checks)
    check_disabled(graft, checks, models)
    check_refusals(graft, checks, models)
    checks.finish()


main()

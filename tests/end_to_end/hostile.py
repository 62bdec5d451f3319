"""Feeds the command bad models, arrays and arguments: hostile.py GRAFT MODELS_DIR.

Each must be refused as support.refused says, without asking for much memory.
"""
import pathlib
import resource
import signal
import sys

import numpy as np

import hostile_models
from support import Checks, Graft, refused

USAGE, MODEL, DATA, FAILED = 2, 3, 4, 1
MEGABYTES = 2000


def check_models(graft, checks, models):
    folder = graft.folder / "hostile"
    folder.mkdir()
    good = (models / "small_cnn.onnx").read_bytes()
    for name, path, codes in hostile_models.write_all(folder, good):
        outputs = folder / "out.npz"
        refused(graft, checks, f"run, {name}", ["run", path, "--inputs", "zeros", "--outputs", outputs], codes, folder)
        # inspect says what blocks, or refuses.
        done = graft.call("inspect", path, timeout=60)
        checks.expect(done.returncode in codes | {0} and bool(done.stdout) == (done.returncode == 0),
                      f"inspect, {name}: exit code {done.returncode}")


def check_arrays(graft, checks, models):
    folder = graft.folder / "arrays"
    folder.mkdir()
    x = np.zeros((2, 12), np.float32)
    cases = {
        "array of another name": ({"input": x}, {USAGE, DATA}),
        "array too many": ({"x": x, "z": x}, {USAGE, DATA}),
        "no array": ({}, {USAGE, DATA}),
        "wrong rank": ({"x": x[0]}, {USAGE, DATA}),
        "wrong dim": ({"x": x[:, :5]}, {USAGE, DATA}),
        "wrong type": ({"x": x.astype(np.int64)}, {USAGE, DATA}),
        "float64 without --double": ({"x": x.astype(np.float64)}, {USAGE, DATA}),
        "objects": ({"x": np.array([{}, []], dtype=object)}, {DATA, 5}),
        "strings": ({"x": np.array([["a"] * 12])}, {USAGE, DATA, 5}),
    }
    outputs = folder / "out.npz"
    for name, (arrays, codes) in cases.items():
        path = folder / "in.npz"
        np.savez(path, **arrays)
        refused(graft, checks, f"run, {name}",
                ["run", models / "small_mlp.onnx", "--inputs", path, "--outputs", outputs], codes, folder)
    np.savez(folder / "good.npz", x=x)
    good = (folder / "good.npz").read_bytes()
    contents = {"empty": b"", "garbage": good[::-1], "truncated": good[:-30], "text": b"x,y\n1,2\n"}
    for name, content in contents.items():
        path = folder / f"{name}.npz"
        path.write_bytes(content)
        refused(graft, checks, f"run, {name} .npz",
                ["run", models / "small_mlp.onnx", "--inputs", path, "--outputs", outputs], {DATA}, folder)
    refused(graft, checks, "run, missing .npz",
            ["run", models / "small_mlp.onnx", "--inputs", folder / "none.npz", "--outputs", outputs], {DATA}, folder)
    for token in (30522, -30523, 2**40):
        np.savez(folder / "ids.npz", ids=np.full((1, 4), token), mask=np.ones((1, 4), np.int64))
        refused(graft, checks, f"run, token {token}",
                ["run", models / "minilm_classifier.onnx", "--inputs", folder / "ids.npz", "--outputs", outputs],
                {FAILED, DATA}, folder)
    check_indices(graft, checks, folder)
    for name, cotangent in {"shape": np.zeros((2, 5), np.float32), "name": None}.items():
        np.savez(folder / "ct.npz", **({"logits": cotangent} if cotangent is not None else {"logit": x}))
        refused(graft, checks, f"run, cotangent of another {name}",
                ["run", models / "small_mlp.onnx", "--inputs", folder / "good.npz", "--vjp", folder / "ct.npz",
                 "--outputs", outputs], {USAGE, DATA}, folder)


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def check_indices(graft, checks, folder):
    """Indices that arrive with the data, in both directions."""
    nodes = {"Gather(x, i)": [2], "GatherElements(x, i)": [2, 4], "GatherND(x, i)": [3, 1],
             "ScatterElements(x, i, u)": [2, 4], "ScatterND(x, i, u)": [2, 1]}
    for node, dims in nodes.items():
        updates = ", float[2, 4] u" if "u" in node else ""
        model = hostile_models.model(f"g (float[2, 4] x, int64[{', '.join(map(str, dims))}] i{updates}) => "
                                     f"(float[{', '.join('ABC'[:max(len(dims), 2)])}] y) {{ y = {node} }}")
        path = folder / "indices.onnx"
        path.write_bytes(model.SerializeToString())
        for index in (2, -3, 2**40, -2**63):
            arrays = {"x": np.zeros((2, 4), np.float32), "i": np.zeros(dims, np.int64)}
            arrays |= {"u": arrays["x"]} if updates else {}
            arrays["i"].flat[-1] = index
            np.savez(folder / "indices.npz", **arrays)
            refused(graft, checks, f"run, {node} at {index}", ["run", path, "--inputs", folder / "indices.npz",
                                                               "--outputs", folder / "out.npz"], {DATA, 5}, folder)


def check_outputs(graft, checks, models):
    """Places that cannot be written, and a disk that is full (a limit on the size of files)."""
    folder = graft.folder / "places"
    folder.mkdir()
    (folder / "file").write_text("")
    model = models / "ppocr_cls.onnx"
    for name, place in {"no folder": folder / "none" / "out.npz", "file as folder": folder / "file" / "out.npz",
                        "folder": folder}.items():
        refused(graft, checks, f"run, output to {name}", ["run", model, "--inputs", "zeros", "--outputs", place],
                {FAILED, USAGE, DATA}, folder)
    inputs = folder / "wide.npz"
    np.savez(inputs, x=np.zeros((200, 12), np.float32))
    refused(graft, checks, "run, disk full", ["run", models / "small_mlp.onnx", "--inputs", inputs, "--outputs",
                                              folder / "full.npz"], {FAILED}, folder, preexec_fn=limit_file_size)


def check_usage(graft, checks, models):
    folder = graft.folder / "usage"
    folder.mkdir()
    model = models / "small_mlp.onnx"
    cases = {
        "no command": [], "unknown command": ["trian"], "no model": ["run"],
        "unknown flag": ["run", model, "--inptus", "zeros"],
        "flag without value": ["run", model, "--inputs"],
        "unknown mode": ["run", model, "--inputs", "zeros", "--mode", "fast"],
        "argument too many": ["inspect", model, model],
        "dim without size": ["run", model, "--inputs", "zeros", "--dim", "N"],
        "negative dim": ["run", model, "--inputs", "zeros", "--dim", "N=-4"],
        "dim of another name": ["run", model, "--inputs", "zeros", "--dim", "M=4"],
        "unknown pass": ["inspect", model, "--after", "magic"],
    }
    for name, arguments in cases.items():
        refused(graft, checks, f"usage, {name}", arguments, {USAGE}, folder)
    for arguments, nearest in [(["trian"], "train"), (["run", model, "--inptus", "zeros"], "--inputs")]:
        checks.expect(nearest in graft.call(*arguments).stderr, f"usage, {arguments[-1]}: names {nearest}")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    for check in (check_usage, check_arrays, check_outputs, check_models):
        check(graft, checks, models)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    checks.expect(peak < MEGABYTES, f"the largest process took {peak} MB, allowed {MEGABYTES}")
    checks.finish()


main()

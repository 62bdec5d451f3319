"""Batches of padded token sequences are cut, and nothing else changes: length_buckets.py GRAFT MODELS_DIR."""
import csv
import sys

import numpy as np
from onnx import numpy_helper

from hostile_models import model
from support import Checks, Graft, refused, write_samples

ROWS, LENGTH, WORDS, WIDTH, USAGE = 80, 64, 30, 8, 2
POOLING = {"masked": "products = Mul(y, m)  sum = ReduceSum<keepdims = 0>(products, tokens)"
                     "  count = ReduceSum<keepdims = 0>(m, tokens)  pooled = Div(sum, count)",
           "plain": "pooled = ReduceMean<axes = [1], keepdims = 0>(y)"}
CUT = "lengths: batches are cut to 16, 24, 32, 48, 64 tokens"


def write_model(graft, pooling):
    """Words and attention over them; what `pooling` says about the padding."""
    proto = model("g (int64[N, S] input_ids, int64[N, S] attention_mask) => (float[N, 2] logits) {"
                  "  x = Gather(table, input_ids)  mask = Cast<to = 1>(attention_mask)"
                  "  k = Transpose<perm = [0, 2, 1]>(x)  q = MatMul(x, wq)  scores = MatMul(q, k)"
                  "  rest = Sub(one, mask)  lowered = Mul(rest, low)  over = Unsqueeze(lowered, tokens)"
                  "  masked = Add(scores, over)  weights = Softmax(masked)  context = MatMul(weights, x)"
                  "  y = Add(x, context)  m = Unsqueeze(mask, last)  " + POOLING[pooling] +
                  "  logits = Gemm(pooled, head) }")
    rng = np.random.default_rng(3)
    tensors = {"table": rng.standard_normal((WORDS, WIDTH)), "wq": rng.standard_normal((WIDTH, WIDTH)) / WIDTH,
               "head": rng.standard_normal((WIDTH, 2)), "one": 1, "low": -10000}
    tensors = {name: np.asarray(array, np.float32) for name, array in tensors.items()} | {
        "tokens": np.array([1]), "last": np.array([2])}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    path = graft.folder / f"{pooling}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def make_data(path):
    rng = np.random.default_rng(4)
    labels, tokens = rng.integers(0, 2, ROWS), rng.integers(2, 41, ROWS)
    mask = (np.arange(LENGTH) < tokens[:, None]).astype(np.int64)
    words = rng.integers(1, WORDS // 2, (ROWS, LENGTH)) + labels[:, None] * (WORDS // 2)
    write_samples(path, {"input_ids": words * mask, "attention_mask": mask}, labels)


def said(graft, *arguments):
    """What the command said; results are in files."""
    done = graft.call(*arguments)
    if done.returncode:
        raise RuntimeError(f"{arguments} exited with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stderr + done.stdout


def numbers(path, left_out=()):
    """Columns of a .csv file that hold numbers."""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in left_out and rows[0][name]]
    return np.array([[float(row[name]) for name in names] for row in rows])


def agree(a, b):
    return a.shape == b.shape and np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


def check_use(graft, checks, path, data):
    """train, evaluate and predict say that they cut, and give the same."""
    results = {}
    for switch in ("on", "off"):
        out = graft.folder / switch
        log = said(graft, "train", "--model", path, "--data", data, "--out", out, "--epochs", 2, "--batch-size", 4,
                   "--length-buckets", switch, "--log", "plain")
        checks.expect((CUT in log) == (switch == "on"), f"train --length-buckets {switch} says whether it cuts")
        log = said(graft, "evaluate", out / "model.onnx", "--data", data, "--log", "plain")
        checks.expect((CUT in log) == (switch == "on"), f"evaluate takes `{switch}` from config.yaml")
        loss = float(next(line for line in log.splitlines() if line.startswith("loss")).split()[1])
        log = said(graft, "predict", out / "model.onnx", "--data", data, "--out", out / "p.csv", "--log", "plain")
        checks.expect((CUT in log) == (switch == "on"), f"predict takes `{switch}` from config.yaml")
        results[switch] = (numbers(out / "metrics.csv", ("seconds", "samples_per_second")), np.array([[loss]]),
                           numbers(out / "p.csv", ("sample",)))
    for name, on, off in zip(("metrics.csv", "loss of evaluate", "predictions"), *results.values()):
        checks.expect(agree(on, off), f"{name}: the same on whole batches")


def main():
    graft, checks = Graft(sys.argv[1]), Checks()
    data = graft.folder / "rows.npz"
    make_data(data)
    check_use(graft, checks, write_model(graft, "masked"), data)
    plain = write_model(graft, "plain")
    arguments = ["evaluate", plain, "--data", data, "--log", "plain"]
    checks.expect("lengths:" not in said(graft, *arguments), "a model that counts padding gets whole batches")
    folder = graft.folder / "refusals"
    folder.mkdir()
    refused(graft, checks, "a switch that is none", [*arguments, "--length-buckets", "maybe"], {USAGE}, folder, "on")
    checks.finish()


main()

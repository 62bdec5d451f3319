"""Features of the frozen part, kept by `graft train --cache-features`: features.py GRAFT MODELS_DIR."""
import csv
import pathlib
import re
import sys

import numpy as np

from support import Checks, Graft, write_samples

USAGE, DEVICE = 2, 1
SAMPLES, CLASSES = 64, 4


def rows(path):
    """metrics.csv without the columns that depend on the clock."""
    with open(path) as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


def check_results(graft, checks, folder, arguments):
    """A run with features gives the files of one without, to the bit, also when it goes on where the other stopped."""
    whole = folder / "off"
    graft("train", *arguments, "--out", whole)
    for place in ("memory", "disk"):
        out = folder / place
        said = graft.call("train", *arguments, "--out", out, "--cache-features", place, "--cache-limit", "64KB").stderr
        checks.expect(re.search(r'features: the part up to ".+" is frozen, 32 bytes a sample', said),
                      f"{place}: the frozen part is named")
        checks.expect(rows(out / "metrics.csv") == rows(whole / "metrics.csv"), f"{place}: the same metrics")
        same = (out / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
        checks.expect(same, f"{place}: the same model, bit for bit")
        left = {p.name.split(".")[0] for p in out.iterdir()}
        checks.expect(left == {p.name.split(".")[0] for p in whole.iterdir()}, f"{place}: --out has {sorted(left)}")
    begun, straight = folder / "begun", folder / "straight"
    steady = [*arguments, "--schedule", "constant", "--warmup", "0"]
    graft("train", *steady, "--out", begun, "--max-steps", "6")  # an epoch
    graft("train", "--out", begun, "--resume", "--max-steps", "12", "--cache-features", "memory")
    graft("train", *steady, "--out", straight, "--max-steps", "12")
    same = (begun / "model.onnx").read_bytes() == (straight / "model.onnx").read_bytes()
    checks.expect(same, "a run without features goes on with them")


def check_refusals(graft, checks, folder, arguments):
    def refused(code, part, *more):
        done = graft.call("train", *arguments, "--out", folder / "refused", *more)
        checks.expect(done.returncode == code and part in done.stderr, f"exit code {done.returncode}: {done.stderr[-200:]!r}")

    refused(USAGE, "the limit is 2047", "--cache-features", "memory", "--cache-limit", "2047")
    refused(USAGE, "the limit is 1024", "--cache-features", "disk", "--cache-limit", "1KB")
    refused(USAGE, "no frozen part", "--cache-features", "memory", "--train", "conv1.weight")
    refused(USAGE, "--cache-limit", "--cache-limit", "1GB")
    refused(USAGE, "--cache-features", "--cache-features", "tape")
    for size in ("1.5XB", "GB", "-1", "1gb", "99999999999TB", ""):
        refused(USAGE, "--cache-limit", "--cache-features", "memory", f"--cache-limit={size}" if size else "--cache-limit=x")
    checks.expect(not (folder / "refused" / "model.onnx").exists(), "nothing was trained")
    (folder / "file").write_text("")
    done = graft.call("train", *arguments, "--out", folder / "file" / "run", "--cache-features", "disk")
    checks.expect(done.returncode == DEVICE and "file" in done.stderr, f"a folder that cannot be made: {done.stderr[-200:]!r}")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks, folder = Checks(), graft.folder
    rng = np.random.default_rng(0)
    labels = np.arange(SAMPLES) % CLASSES
    x = rng.standard_normal((SAMPLES, 1, 8, 8)) + rng.standard_normal((CLASSES, 1, 8, 8))[labels]
    write_samples(folder / "train.npz", {"x": x.astype(np.float32)}, labels)
    arguments = ["--model", models / "small_cnn.onnx", "--data", folder / "train.npz", "--train", "fc*", "--epochs", "3",
                 "--batch-size", "8", "--val-split", "0.25", "--lr", "0.01", "--log", "plain"]
    check_results(graft, checks, folder, arguments)
    check_refusals(graft, checks, folder, arguments)
    checks.finish()


main()

"""One life of a training run: killed, resumed, evaluated, used: train_cycle.py GRAFT MODELS_DIR."""
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime

from support import Checks, Graft, write_samples

SAMPLES, CLASSES = 1200, 4


def make_data(path, seed):
    """Points around four corners; the classes overlap a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, SAMPLES)
    corners = np.random.default_rng(0).standard_normal((CLASSES, 12))
    x = (corners[labels] + 0.7 * rng.standard_normal((SAMPLES, 12))).astype(np.float32)
    write_samples(path, {"x": x}, labels)
    return x, labels


def rows(path):
    """metrics.csv without the columns that depend on the clock."""
    with open(path) as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


def stop_midway(graft, arguments, out, how):
    """Starts a run and stops it behind its second epoch."""
    process = subprocess.Popen([graft.binary, "train", *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.csv").exists() and len(rows(out / "metrics.csv")) >= 2:
            process.send_signal(how)
            break
        time.sleep(0.01)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def check_resume(graft, checks, folder, arguments):
    whole = folder / "whole"
    graft("train", *arguments, "--out", whole)
    for how in (signal.SIGKILL, signal.SIGINT):
        out = folder / how.name
        code, said = stop_midway(graft, [*arguments, "--out", out], out, how)
        checks.expect(code in (1, -how), f"{how.name} ends the run: exit code {code}")
        if code == 1:
            checks.expect("--resume" in said, "an interrupted run says how to go on")
        before = len(rows(out / "metrics.csv"))
        graft("train", "--out", out, "--resume")
        after = rows(out / "metrics.csv")
        checks.expect(before < len(after), f"{how.name}: {before} epochs were done, {len(after)} in the end")
        checks.expect(after == rows(whole / "metrics.csv"), f"{how.name}: metrics equal those of a run at once")
        same = (out / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
        checks.expect(same, f"{how.name}: the model equals that of a run at once, bit for bit")
    left = {p.name.split(".")[0] for p in whole.iterdir()}
    checks.expect(left == {"model", "last", "config", "metrics", "events", "report"}, f"--out has {sorted(left)}")
    refused = graft.call("train", *arguments, "--out", whole)
    checks.expect(refused.returncode == 2 and "--overwrite" in refused.stderr, "a run is not overwritten unasked")
    damaged = folder / "SIGKILL" / "last.ckpt"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:len(content) // 2])
    refused = graft.call("train", "--out", damaged.parent, "--resume")
    checks.expect(refused.returncode == 4 and "last.ckpt" in refused.stderr, "a damaged checkpoint is refused")
    return whole / "model.onnx"


def check_configuration(graft, checks, folder, arguments):
    """config.yaml repeats a run, also one whose length is given in updates."""
    first, again = folder / "updates", folder / "again"
    at = arguments.index("--epochs")
    graft("train", *arguments[:at], *arguments[at + 2:], "--max-steps", "250", "--disable", "merge_equal", "--out", first)
    checks.expect("merge_equal" in (first / "config.yaml").read_text(), "config.yaml holds what --disable left alone")
    graft("train", "--config", first / "config.yaml", "--out", again)
    steps = rows(first / "metrics.csv")[-1]["step"]
    checks.expect(steps == "250", f"{steps} updates were asked for")
    checks.expect(rows(again / "metrics.csv") == rows(first / "metrics.csv"), "config.yaml repeats the run")


def check_autotune(graft, checks, folder, arguments):
    """With one cache of kernel choices a run goes on to the bit; the flag comes from its checkpoint."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    arguments = [*arguments, "--autotune"]
    whole, out = folder / "tuned", folder / "tuned_midway"
    graft("train", *arguments, "--out", whole)
    checks.expect("autotune: true" in (whole / "config.yaml").read_text(), "config.yaml holds --autotune")
    stop_midway(graft, [*arguments, "--out", out], out, signal.SIGKILL)
    said = graft.call("train", "--out", out, "--resume").stderr
    checks.expect("autotune: " in said and " 0 measured" in said and "measuring" not in said,
                  "--resume reads the choices and measures nothing")
    checks.expect(rows(out / "metrics.csv") == rows(whole / "metrics.csv") and
                  (out / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes(), "--autotune: the same bits")


def check_use(graft, checks, folder, model, data, x, labels):
    report = json.loads(graft("evaluate", model, "--data", data, "--bootstrap", "200", "--json"))
    low, high = report["accuracy_interval"]
    checks.expect(report["samples"] == SAMPLES and low <= report["accuracy"] <= high,
                  f"accuracy {report['accuracy']:.3f} in [{low:.3f}, {high:.3f}]")
    checks.expect(report["accuracy"] > 0.8, "the model has learnt")
    graft("predict", model, "--data", data, "--out", folder / "p.csv")
    with open(folder / "p.csv") as file:
        predicted = [int(row["predicted"]) for row in csv.DictReader(file)]
    accuracy = float(np.mean(np.array(predicted) == labels))
    checks.expect(abs(accuracy - report["accuracy"]) < 1e-9, "predict and evaluate agree")
    graft("predict", model, "--data", data, "--out", folder / "p.npz")
    onnx.checker.check_model(onnx.load(model))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_outputs()[0].name
    reference = session.run(None, {"x": x})[0]
    with np.load(folder / "p.npz") as arrays:
        error = np.abs(arrays[name] - reference).max() / np.abs(reference).max()
    checks.expect(error <= 1e-4, f"outputs within {error:.1e} of onnxruntime")
    refused = graft.call("predict", model, "--data", data, "--out", folder / "p.txt")
    checks.expect(refused.returncode == 2, "predictions of an unknown kind are refused")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks, folder = Checks(), graft.folder
    x, labels = make_data(folder / "train.npz", 1)
    arguments = ["--model", models / "small_mlp.onnx", "--data", folder / "train.npz", "--epochs", "40", "--lr", "0.003",
                 "--batch-size", "8", "--accumulate", "3", "--clip-norm", "1", "--log", "plain"]
    model = check_resume(graft, checks, folder, arguments)
    check_configuration(graft, checks, folder, arguments)
    check_autotune(graft, checks, folder, arguments)
    x, labels = make_data(folder / "held_out.npz", 2)
    check_use(graft, checks, folder, model, folder / "held_out.npz", x, labels)
    checks.finish()


main()

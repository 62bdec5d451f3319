"""Times steps of `graft train --cache-features memory`: step_cached.py GRAFT MODELS NAME BATCH PART THREADS.

An epoch counts with shuffling and gathering what is cached, without the files that a run leaves behind it and without
what fills the cache before the first one.
"""
import csv
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

import numpy

import workloads

EPOCHS = 12

graft, models, name, part = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[5]
batch, threads = int(sys.argv[4]), sys.argv[6]
samples = workloads.cached_samples(name, batch, part)
with tempfile.TemporaryDirectory() as folder:
    data, run = pathlib.Path(folder) / "data.npz", pathlib.Path(folder) / "run"
    inputs, labels = workloads.arrays(numpy, name, samples)
    numpy.savez(data, x=inputs[0], y=labels)
    flags = [word for glob in workloads.trained(name, batch, part) for word in ("--train", glob)]
    done = subprocess.run([graft, "train", "--model", models / f"{name}.onnx", "--data", data, "--out", run, *flags,
                           "--batch-size", str(batch), "--epochs", str(EPOCHS), "--val-split", "0", "--cache-features",
                           "memory", "--threads", threads, "--log", "json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    with open(run / "metrics.csv", newline="") as file:
        times = [1e3 * batch / float(row["samples_per_second"]) for row in csv.DictReader(file)][1:]
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps({"min_ms": min(times), "median_ms": statistics.median(times), "steps": EPOCHS * samples // batch,
                  "peak_rss_mb": peak}))

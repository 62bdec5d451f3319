"""Times a step of onnxruntime-training: step_ort.py FOLDER NAME BATCH SECONDS."""
import sys

import numpy
import onnxruntime
from onnxruntime.training import api

import stopwatch
import workloads

folder, name, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
files = f"{folder}/{name}_ort"
state = api.CheckpointState.load_checkpoint(f"{files}/checkpoint")
module = api.Module(f"{files}/training_model.onnx", state)
optimiser = api.Optimizer(f"{files}/optimizer_model.onnx", module)
optimiser.set_learning_rate(1e-4)
inputs, labels = workloads.arrays(numpy, name, batch)
module.train()


def step():
    module(*inputs, labels)
    optimiser.step()
    module.lazy_reset_grad()


stopwatch.report(step, seconds, f"onnxruntime-training {onnxruntime.__version__}")

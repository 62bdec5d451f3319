"""Times a step of PyTorch: step_torch.py PEER NAME BATCH SECONDS."""
import sys

import numpy
import torch

import networks
import stopwatch
import workloads

peer, name, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
network = networks.build(name)
inputs, labels = workloads.arrays(numpy, name, batch)
inputs, labels = [torch.from_numpy(a) for a in inputs], torch.from_numpy(labels)
tuned = peer == "torch_tuned"
if tuned and inputs[0].dim() == 4:
    network = network.to(memory_format=torch.channels_last)
    inputs = [a.to(memory_format=torch.channels_last) for a in inputs]
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, **({"fused": True} if tuned else {}))
forward = torch.compile(network) if peer == "torch_compile" else network


def step():
    loss = torch.nn.functional.cross_entropy(forward(*inputs), labels)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


stopwatch.report(step, seconds, f"PyTorch {torch.__version__.split('+')[0]}")

"""Times a step of PyTorch: step_torch.py PEER NAME BATCH SECONDS GLOB..., the parameters to train."""
import fnmatch
import sys

import numpy
import torch

import networks
import stopwatch
import workloads

peer, name, batch, seconds, globs = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]
low = peer.endswith("_bf16")
network = networks.build(name)
inputs, labels = workloads.arrays(numpy, name, batch)
inputs, labels = [torch.from_numpy(a) for a in inputs], torch.from_numpy(labels)
tuned = peer.startswith("torch_tuned")
for parameter_name, parameter in network.named_parameters():
    parameter.requires_grad_(any(fnmatch.fnmatch(parameter_name, glob) for glob in globs))
for module in network.modules():
    if any(True for _ in module.parameters()):
        module.train(any(p.requires_grad for p in module.parameters()))
if tuned and inputs[0].dim() == 4:
    network = network.to(memory_format=torch.channels_last)
    inputs = [a.to(memory_format=torch.channels_last) for a in inputs]
optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4,
                              **({"fused": True} if tuned else {}))
forward = torch.compile(network) if peer.startswith("torch_compile") else network


def step():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        logits = forward(*inputs)
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


stopwatch.report(step, seconds, f"PyTorch {torch.__version__.split('+')[0]}")

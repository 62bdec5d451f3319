"""Records gradients and training steps of PyTorch for three tiny networks: record_torch.py [DIR].

Run by hand where torch is installed (recorded with torch 2.15.0, numpy 1.26, CPU, one thread); the .npz files beside
this script are its output. tests/models/small.py writes the same networks as ONNX graphs from the recorded arrays.
See README.md for the names of the arrays.
"""
import pathlib
import sys

import numpy as np
import torch
from torch import nn

STEPS = 20
ROUNDING = 1e-12  # a gradient below this norm in float64 is zero but for rounding errors
OPTIMISERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}, {"momentum_buffer": "momentum"}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
             {"exp_avg": "m", "exp_avg_sq": "v"}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
              {"exp_avg": "m", "exp_avg_sq": "v"}),
}


def mlp():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


class Cnn(nn.Module):
    """The second convolution has a bias, whose true gradient is zero before a live BatchNormalization."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1]**0.5, -1)
        return (weights @ v).transpose(1, 2).flatten(-2)


class ResidualNorm(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width_in, width), nn.LayerNorm(width)

    def forward(self, y, x):
        return self.LayerNorm(self.dense(y) + x)


class Block(nn.Module):
    """One BERT layer of width 8 with 2 heads, mean over the sequence, classifier."""

    def __init__(self, width=8, heads=2, inner=16):
        super().__init__()
        self.layer = nn.ModuleDict({
            "attention": nn.ModuleDict({"self": SelfAttention(width, heads), "output": ResidualNorm(width, width)}),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(width, inner)}),
            "output": ResidualNorm(inner, width)})
        self.classifier = nn.Linear(width, 4)

    def forward(self, x):
        layer = self.layer
        x = layer["attention"]["output"](layer["attention"]["self"](x), x)
        hidden = nn.functional.gelu(layer["intermediate"]["dense"](x))
        return self.classifier(layer["output"](hidden, x).mean(1))


NETWORKS = {"small_mlp": (mlp, (12,)), "small_cnn": (Cnn, (1, 8, 8)), "block": (Block, (6, 8))}


def batches(rng, shape):
    """Inputs in steps of 1/8 (they compress well) and labels that depend on them."""
    x = np.clip(np.round(rng.standard_normal((STEPS, 8, *shape)) * 8) / 8, -3, 3).astype(np.float32)
    flat = x.reshape(STEPS, 8, -1)
    return x, (flat @ rng.standard_normal((flat.shape[-1], 4))).argmax(-1)


def to_numpy(tensors):
    return {name: t.detach().numpy().copy() for name, t in tensors if "num_batches" not in name}


def gradients(net, x, cotangent):
    """Logits, and the gradient of sum(cotangent * logits) to the input and every parameter."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    logits = net(x)
    (logits * cotangent).sum().backward()
    parameters = {name: p.grad.numpy() for name, p in net.named_parameters()}
    return {"logits": logits.detach().numpy(), "x": x.grad.numpy(), **parameters}


def population_variances(net, variances):
    """Follows ONNX's running variance, which averages the population variance of the batches, in `variances`."""
    def follow(name, module):
        def hook(_, inputs):
            variance = inputs[0].detach().var((0, 2, 3), unbiased=False).numpy()
            key = f"{name}.running_var"
            variances[key] = (np.float32(0.9) * variances[key] + np.float32(0.1) * variance).astype(np.float32)
        return module.register_forward_pre_hook(hook)
    return [follow(name, m) for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]


def noisy_in_float64(make, kind, history, noisy, xs, ys):
    """The parameters `noisy` and their moments after one step in float64 from each recorded state."""
    optimiser_class, options, state_names = OPTIMISERS[kind]
    found = {}
    for step, (x, y) in enumerate(zip(xs, ys)) if noisy else ():
        net = make().double().train()
        optimiser = optimiser_class(net.parameters(), **options)

        def before(folder, name):
            return torch.from_numpy(history[f"{folder}/{name}"][step]).double()

        for name, p in net.named_parameters():
            p.data.copy_(before("param", name))
            optimiser.state[p] = {theirs: before(ours, name) for theirs, ours in state_names.items()}
            optimiser.state[p]["step"] = torch.tensor(float(step))
        nn.functional.cross_entropy(net(torch.from_numpy(x).double()), torch.from_numpy(y)).backward()
        optimiser.step()
        for name, p in net.named_parameters():
            if name in noisy:
                arrays = {"param": p.data} | {ours: optimiser.state[p][theirs] for theirs, ours in state_names.items()}
                for folder, array in arrays.items():
                    found.setdefault(f"{folder}64/{name}", []).append(array.numpy().copy())
    return found


def train(make, initial, kind, xs, ys, noisy):
    """Parameters, statistics and optimiser state before the first and after every step, and the losses."""
    optimiser_class, options, state_names = OPTIMISERS[kind]
    net = make()
    net.load_state_dict(initial)
    net.train()
    variances = {name: b.numpy().copy() for name, b in net.named_buffers() if "running_var" in name}
    population_variances(net, variances)
    optimiser = optimiser_class(net.parameters(), **options)
    record = {f"{kind}/option/{name}": np.array(value) for name, value in options.items()}
    history, losses = {}, []

    def snapshot():
        arrays = {f"param/{n}": a for n, a in to_numpy(net.state_dict().items()).items() if n not in variances}
        arrays |= {f"param/{n}": v.copy() for n, v in variances.items()}
        arrays |= {f"torch/{n}": net.state_dict()[n].numpy().copy() for n in variances}
        for name, p in net.named_parameters():
            for theirs, ours in state_names.items():
                arrays[f"{ours}/{name}"] = optimiser.state[p].get(theirs, torch.zeros_like(p)).numpy().copy()
        for name, array in arrays.items():
            history.setdefault(name, []).append(array)

    snapshot()
    for x, y in zip(xs, ys):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        snapshot()
    history |= noisy_in_float64(make, kind, history, noisy, xs, ys)
    record[f"{kind}/loss"] = np.array(losses, np.float32)
    return record | {f"{kind}/{name}": np.stack(arrays) for name, arrays in history.items()}


def record(make, shape, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = make().train()
    with torch.no_grad():  # norms away from 1 and 0, so that a swapped or forgotten one shows
        for name, p in net.named_parameters():
            if p.dim() == 1 and ("bn" in name or "LayerNorm" in name):
                p.add_(0.2 * torch.randn_like(p))
    initial = {name: t.clone() for name, t in net.state_dict().items()}
    xs, ys = batches(rng, shape)
    cotangent = rng.standard_normal((8, 4)).astype(np.float32)
    arrays = {f"init/{name}": a for name, a in to_numpy(initial.items()).items()}
    arrays |= {"gradient/x": xs[0], "gradient/cotangent": cotangent, "steps/x": xs, "steps/y": ys}
    x, ct = torch.from_numpy(xs[0]), torch.from_numpy(cotangent)
    arrays |= {f"gradient32/{name}": a for name, a in gradients(net, x, ct).items()}
    arrays |= {f"gradient64/{name}": a for name, a in gradients(net.double(), x.double(), ct.double()).items()}
    noisy = {name for name, _ in net.named_parameters() if np.linalg.norm(arrays[f"gradient64/{name}"]) < ROUNDING}
    for kind in OPTIMISERS:
        arrays |= train(make, initial, kind, xs, ys, noisy)
    return arrays


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for seed, (name, (make, shape)) in enumerate(NETWORKS.items(), start=1):
        np.savez_compressed(folder / f"{name}.npz", **record(make, shape, seed))
        print(name, (folder / f"{name}.npz").stat().st_size, "bytes")

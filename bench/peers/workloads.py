"""The workloads of the comparison: what every process of it knows. Needs nothing but the standard library."""
import fnmatch

IMAGE = [3, 224, 224]
TOKENS = 128

# Classes of the labels, inputs without the batch (floats) or None for token ids and mask, batches.
MODELS = {
    "mlp": {"title": "MLP 784-512-512-10", "classes": 10, "shape": [784], "batches": [1, 32, 256]},
    "resnet18": {"title": "ResNet-18, 224²", "classes": 10, "shape": IMAGE, "batches": [8]},
    "resnet50": {"title": "ResNet-50, 224²", "classes": 10, "shape": IMAGE, "batches": [8]},
    "mobilenet_v2": {"title": "MobileNetV2, 224²", "classes": 10, "shape": IMAGE, "batches": [8, 32]},
    "minilm": {"title": f"MiniLM 6×384, {TOKENS} tokens", "classes": 4, "shape": None, "batches": [1, 8],
               "vocabulary": 30522},
}

PEERS = {
    "torch": "PyTorch",
    "torch_tuned": "PyTorch, channels-last and fused AdamW",
    "torch_compile": "PyTorch, torch.compile",
    "ort": "onnxruntime-training",
}


def rows(globs):
    """(model, batch) of every workload that one of the globs matches, as "mlp" or "mlp/32"."""
    found = [(name, batch) for name, model in MODELS.items() for batch in model["batches"]
             if any(fnmatch.fnmatch(text, glob) for glob in globs for text in (name, f"{name}/{batch}"))]
    unmatched = [g for g in globs if not any(fnmatch.fnmatch(t, g) for n, m in MODELS.items()
                                             for t in [n, *(f"{n}/{b}" for b in m["batches"])])]
    if unmatched:
        raise SystemExit(f"no workload matches {', '.join(unmatched)}: there are {', '.join(MODELS)}")
    return found


def arrays(numpy, name, batch):
    """Inputs and labels of one batch, the same for the same workload."""
    model, random = MODELS[name], numpy.random.default_rng(7)
    if model["shape"]:
        inputs = [random.standard_normal([batch, *model["shape"]]).astype(numpy.float32)]
    else:
        inputs = [random.integers(0, model["vocabulary"], [batch, TOKENS]), numpy.ones([batch, TOKENS], numpy.int64)]
    return inputs, random.integers(0, model["classes"], [batch])

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

# What is trained where not all is: globs of parameter names. All modules without any of them are in inference mode.
PARTS = {
    ("resnet50", 8, "last_block"): {"title": "last block and head", "train": ["layer4.2.*", "fc.*"]},
    ("minilm", 8, "norms"): {"title": "normalisations, biases and head",
                             "train": ["*LayerNorm*", "*.bias", "*classifier*"]},
    # Graft computes what the frozen part gives once for each sample: steps of the second epoch and later ones.
    ("resnet50", 8, "cached"): {"title": "head, frozen part cached", "train": ["fc.*"], "samples": 256},
}

PEERS = {
    "torch": "PyTorch",
    "torch_tuned": "PyTorch, channels-last and fused AdamW",
    "torch_compile": "PyTorch, torch.compile",
    "ort": "onnxruntime-training",
}
# By autocast; bfloat16 is compared with the fastest peer of either type.
LOW_PEERS = {
    "torch_tuned_bf16": "PyTorch, channels-last and fused AdamW, bfloat16",
    "torch_compile_bf16": "PyTorch, torch.compile, bfloat16",
}


def key_of(name, batch, part):
    return f"{name}/{batch}" + (f"/{part}" if part else "")


def title_of(name, batch, part):
    trained = f", {PARTS[name, batch, part]['title']}" if part else ""
    return f"{MODELS[name]['title']}, batch {batch}{trained}"


def trained(name, batch, part):
    return PARTS[name, batch, part]["train"] if part else ["*"]


def cached_samples(name, batch, part):
    """How many samples a run on cached features takes; 0 where nothing is cached."""
    return PARTS[name, batch, part].get("samples", 0) if part else 0


def rows(globs):
    """(model, batch, part) of every workload that a glob matches, as "mlp", "mlp/32" or "resnet50/8/last_block"; part is
    "" where all is trained."""
    known = [(name, batch, "") for name, model in MODELS.items() for batch in model["batches"]] + list(PARTS)
    names = {row: {row[0], key_of(*row)} for row in known}
    unmatched = [g for g in globs if not any(fnmatch.fnmatch(text, g) for texts in names.values() for text in texts)]
    if unmatched:
        raise SystemExit(f"no workload matches {', '.join(unmatched)}: there are {', '.join(map(lambda r: key_of(*r), known))}")
    return [row for row in known if any(fnmatch.fnmatch(text, glob) for glob in globs for text in names[row])]


def arrays(numpy, name, batch):
    """Inputs and labels of one batch, the same for the same workload."""
    model, random = MODELS[name], numpy.random.default_rng(7)
    if model["shape"]:
        inputs = [random.standard_normal([batch, *model["shape"]]).astype(numpy.float32)]
    else:
        inputs = [random.integers(0, model["vocabulary"], [batch, TOKENS]), numpy.ones([batch, TOKENS], numpy.int64)]
    return inputs, random.integers(0, model["classes"], [batch])

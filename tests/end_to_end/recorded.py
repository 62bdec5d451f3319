"""Compares `graft run --vjp` with the recorded gradients of PyTorch: recorded.py GRAFT MODELS_DIR."""
import pathlib
import sys

import numpy as np

from support import RECORDINGS, SMALL, Checks, Graft, disagreements


def main():
    graft, folder = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    for name in SMALL:
        with np.load(RECORDINGS / f"{name}.npz") as recording:
            arrays = dict(recording)
        inputs, cotangents = {"x": arrays["gradient/x"]}, {"logits": arrays["gradient/cotangent"]}
        for double, prefix, tolerance in [(False, "gradient32/", 1e-4), (True, "gradient64/", 1e-6)]:
            references = {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
            logits = references.pop("logits")
            outputs = graft.run(folder / f"{name}.onnx", inputs, cotangents, double, mode="train")
            kind = "float64" if double else "float32"
            missing = [key for key in references if f"grad:{key}" not in outputs]
            if not checks.expect(not missing, f"{name} {kind}: parameters and input have a gradient {missing or ''}"):
                continue
            error = np.abs(outputs["logits"] - logits).max() / np.abs(logits).max()
            checks.expect(error <= tolerance, f"{name} {kind}: logits within {error:.1e} of PyTorch")
            wrong, worst = disagreements({key: outputs[f"grad:{key}"] for key in references}, references, tolerance)
            checks.expect(not wrong, f"{name} {kind}: gradients within {worst:.1e} of PyTorch {wrong or ''}")
    checks.finish()


main()

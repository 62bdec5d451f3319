"""Fine-tunes the PP-OCR orientation classifier on handwritten digits: train_digits.py GRAFT MODELS_DIR.

The data and the check of the export are those of examples/digits; this is what scripts/demo shows, with a limit on time
and accuracy.
"""
import json
import pathlib
import subprocess
import sys
import time

import onnx

from support import ROOT, Checks, Graft

SECONDS, ACCURACY = 60, 0.98


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    digits, out = graft.folder / "digits", graft.folder / "out"
    subprocess.run([sys.executable, ROOT / "examples/digits/make_digits.py", digits], check=True)
    start = time.monotonic()
    graft("train", "--model", models / "ppocr_cls.onnx", "--new-head", 10, "--data", digits / "train",
          "--val", digits / "val", "--out", out, "--epochs", 6, "--batch-size", 32, "--lr", 2e-3, "--size", "48x48",
          "--mean", 0.5, "--std", 0.5, "--seed", 1)
    seconds = time.monotonic() - start
    checks.expect(seconds <= SECONDS, f"training took {seconds:.0f} s, allowed {SECONDS}")
    report = json.loads(graft("evaluate", out / "model.onnx", "--data", digits / "val", "--config", out / "config.yaml",
                              "--json"))
    checks.expect(report["accuracy"] >= ACCURACY, f"{report['accuracy']:.1%} of {report['samples']} held-out digits")
    exported = onnx.load(out / "model.onnx")
    onnx.checker.check_model(exported)
    done = subprocess.run([sys.executable, ROOT / "examples/digits/compare_onnxruntime.py", graft.binary,
                           out / "model.onnx", digits / "val", "--size", "48", "48", "--limit", "355"],
                          capture_output=True, text=True)
    print(done.stdout, done.stderr)
    checks.expect(done.returncode == 0, "onnxruntime computes what graft computes")
    checks.finish()


main()

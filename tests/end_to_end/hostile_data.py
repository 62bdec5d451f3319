"""Feeds `graft train` bad data and settings: hostile_data.py GRAFT MODELS_DIR.

Each must end in time with the documented exit code, one error line that names the culprit, and no model in --out.
"""
import pathlib
import sys

import numpy as np
from PIL import Image

from support import Checks, Graft, refused

USAGE, MODEL, DATA, UNSUPPORTED = 2, 3, 4, 5


def write_images(folder, classes, count=2, mode="RGB"):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).convert(mode).save(folder / name / f"{i}.png")
    return folder


def image_folders(folder):
    """(name, path, word that the error must contain)"""
    (folder / "empty").mkdir()
    yield "no samples", folder / "empty", "empty"
    yield "missing folder", folder / "nowhere", "nowhere"
    yield "one class", write_images(folder / "one", ["a"]), "one"
    yield "more classes than outputs", write_images(folder / "three", "abc"), "--new-head"
    png = (folder / "three/a/0.png").read_bytes()
    for name, content in {"text": b"no image", "empty": b"", "truncated": png[:60]}.items():
        broken = write_images(folder / f"{name}-image", "ab")
        (broken / "b" / "broken.png").write_bytes(content)
        yield f"{name} image", broken, "broken.png"
    bomb = write_images(folder / "bomb", "ab")
    header = bytearray(png)
    header[16:24] = (60000).to_bytes(4, "big") * 2
    (bomb / "b" / "broken.png").write_bytes(header)
    yield "image that claims 60000 x 60000", bomb, "broken.png"


def tables(folder):
    x = np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    labels = np.arange(6) % 4
    arrays = {
        "label too large": {"x": x, "labels": labels + 1}, "label negative": {"x": x, "labels": labels - 1},
        "label huge": {"x": x, "labels": labels + 2**40}, "no labels": {"x": x}, "no input": {"labels": labels},
        "labels of another length": {"x": x, "labels": labels[:5]}, "no samples": {"x": x[:0], "labels": labels[:0]},
        "one class": {"x": x, "labels": labels * 0}, "wrong shape": {"x": x[:, :5], "labels": labels},
    }
    for name, content in arrays.items():
        path = folder / f"{name}.npz"
        np.savez(path, **content)
        yield f".npz, {name}", path
    header = ",".join(f"f{i}" for i in range(12)) + ",label\n"
    row = ",".join(["1"] * 12)
    mixed = row.replace("1", "x", 1)
    texts = {"empty": "", "header only": header, "ragged": f"{header}{row},0\n1,2\n",
             "one class": f"{header}{row},a\n{row},a\n", "text among numbers": f"{header}{row},0\n{mixed},1\n",
             "binary": "\0\1\2\n" * 9}
    for name, text in texts.items():
        path = folder / f"{name}.csv"
        path.write_text(text)
        yield f".csv, {name}", path
    for name in ("data.xyz", "data.parquet", "data.yaml"):
        (folder / name).write_text("none of these")
        yield name, folder / name


def settings(folder):
    """(name, arguments, word that the error must contain)"""
    yield "glob without match", ["--train", "fc.*"], "fc"
    yield "nothing left to train", ["--freeze", "*"], ""
    yield "new head of 0", ["--new-head", "0"], ""
    yield "new head of -3", ["--new-head", "-3"], ""
    yield "unknown loss", ["--loss", "crossentropy"], "cross_entropy"
    yield "unknown optimiser", ["--optimizer", "adamax"], "adam"
    yield "unknown schedule", ["--schedule", "cosin"], "cosine"
    yield "unknown monitor", ["--monitor", "acuracy"], ""
    yield "negative epochs", ["--epochs", "-1"], ""
    yield "batch of 0", ["--batch-size", "0"], ""
    yield "rate no number", ["--lr", "fast"], "fast"
    yield "rate infinite", ["--lr", "inf"], ""
    yield "rate nan", ["--lr", "nan"], ""
    yield "split of 1", ["--val-split", "1"], ""
    yield "output of another name", ["--output", "logit"], "logit"
    yield "unknown flag", ["--epoch", "3"], "--epochs"
    doubling = "a: &a [x]\n" + "".join(f"a{i}: &a{i} [*a, *a]\n" for i in range(9))
    texts = {"unknown key": "epoch: 3\n", "no mapping": "- a\n", "broken YAML": "a: [\n", "wrong type": "epochs: {}\n",
             "aliases that double": doubling}
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text)
        yield f"configuration with {name}", ["--config", path], ""
    yield "configuration missing", ["--config", folder / "none.yaml"], "none.yaml"
    yield "validation data missing", ["--val", folder / "none.npz"], "none.npz"


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    folder = graft.folder / "data"
    folder.mkdir()
    small = models / "small_mlp.onnx"
    good = folder / "good.npz"
    np.savez(good, x=np.zeros((40, 12), np.float32), labels=np.arange(40) % 4)
    cases = [(name, models / "ppocr_cls.onnx", ["--data", path, "--size", "32x32", "--val-split", "0"], {DATA}, word)
             for name, path, word in image_folders(folder)]
    cases += [(name, small, ["--data", path, "--val-split", "0"], {DATA, USAGE, UNSUPPORTED}, path.name)
              for name, path in tables(folder)]
    cases += [(name, small, ["--data", good, *arguments], {USAGE, DATA}, word)
              for name, arguments, word in settings(folder)]
    for number, (name, model, arguments, codes, word) in enumerate(cases):
        out = graft.folder / f"out{number}"
        refused(graft, checks, name, ["train", "--model", model, "--out", out, "--max-steps", "2", *arguments], codes,
                folder, word=word)
        left = [p.name for p in out.rglob("*") if p.suffix in (".onnx", ".ckpt")] if out.exists() else []
        checks.expect(not left, f"{name}: no model is left {left or ''}")

    skipped = graft.call("train", "--model", models / "ppocr_cls.onnx", "--data", folder / "text-image",
                         "--size", "32x32", "--val-split", "0", "--max-steps", "2", "--on-bad-sample", "skip",
                         "--out", graft.folder / "skip")
    checks.expect(skipped.returncode == 0, f"a broken image can be skipped\n{skipped.stderr[-400:]}")
    checks.expect("skipped" in skipped.stderr, "the skipped image is counted")
    checks.finish()


main()

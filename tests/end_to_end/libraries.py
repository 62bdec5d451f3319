"""What is loaded when: OpenCV and Arrow stay out of the process until a data set needs them. libraries.py GRAFT MODELS_DIR."""
import os
import pathlib
import re
import sys

import numpy as np

from support import Checks, Graft, write_samples

HEAVY = ("opencv", "arrow", "parquet")


def loaded(graft, *arguments):
    """Names of the shared libraries that a command loads, as the dynamic linker tells, and whether it went well."""
    said = graft.folder / "linker"
    for old in graft.folder.glob("linker.*"):
        old.unlink()
    done = graft.call(*arguments, env=os.environ | {"LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(said)})
    text = "".join(path.read_text(errors="replace") for path in graft.folder.glob("linker.*"))
    return set(re.findall(r"calling init: \S*/(\S+)", text)), done


def check(graft, checks, what, arguments, wanted):
    libraries, done = loaded(graft, *arguments)
    found = {word for word in HEAVY if any(word in name for name in libraries)}
    checks.expect(done.returncode == 0 and found == wanted and any("libstdc++" in name for name in libraries),
                  f"{what}: exit code {done.returncode}, loads {sorted(found) or 'neither OpenCV nor Arrow'} "
                  f"among {len(libraries)} libraries {done.stderr[-300:] if done.returncode else ''}")
    return libraries


def write_bmp(path, shade):
    """8 x 8 pixels of 24 bits."""
    pixels = bytes([shade]) * (8 * 8 * 3)
    header = b"BM" + (54 + len(pixels)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = b"".join(number.to_bytes(size, "little") for number, size in
                    ((40, 4), (8, 4), (8, 4), (1, 2), (24, 2), (0, 4), (len(pixels), 4), (0, 4), (0, 4), (0, 4), (0, 4)))
    path.write_bytes(header + info + pixels)


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    folder, mlp = graft.folder, models / "small_mlp.onnx"
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((32, 12)).astype(np.float32), np.arange(32) % 4

    libraries = check(graft, checks, "--version", ["--version"], set())
    checks.expect(len(libraries) < 40, f"--version loads {len(libraries)} libraries")
    write_samples(folder / "stored.npz", {"x": x}, labels)
    np.savez_compressed(folder / "deflated.npz", x=x, labels=labels)
    for data in ("stored", "deflated"):
        check(graft, checks, f"training on {data} arrays",
              ["train", "--model", mlp, "--data", folder / f"{data}.npz", "--out", folder / data, "--epochs", 1], set())

    with open(folder / "table.csv", "w") as file:
        print(*(f"x{i}" for i in range(12)), "label", sep=",", file=file)
        for row, label in zip(x, labels):
            print(*row, label, sep=",", file=file)
    check(graft, checks, "training on a table",
          ["train", "--model", mlp, "--data", folder / "table.csv", "--out", folder / "table", "--epochs", 1],
          {"arrow", "parquet"})

    for name, shade in (("dark", 20), ("light", 220)):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(8):
            write_bmp(folder / "images" / name / f"{i}.bmp", shade + i)
    check(graft, checks, "training on images",
          ["train", "--model", models / "small_cnn.onnx", "--new-head", 2, "--data", folder / "images", "--out",
           folder / "cnn", "--epochs", 1, "--size", "8x8"], {"opencv"})
    checks.finish()


main()

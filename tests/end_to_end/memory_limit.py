"""--memory-limit and --recompute: memory_limit.py GRAFT MODELS_DIR."""
import json
import os
import pathlib
import re
import sys

import numpy as np

from support import Checks, Graft, refused

USAGE, DEVICE = 2, 1
STEP = ["--rounds", 1, "--seconds", 0, "--json"]


def check_plans(graft, checks, models):
    """What is planned is what is taken: within 5 % where the plan is over 200 MB."""
    step = ["bench", "step", models / "mobilenet_v2.onnx", "--batch", 16, *STEP]
    full, smallest = json.loads(graft(*step)), json.loads(graft(*step, "--recompute", "all"))
    peak, least = full["planned_peak_mb"], smallest["planned_peak_mb"]
    middle = (peak + least) / 2
    limited = json.loads(graft(*step, "--memory-limit", f"{middle:.1f}M"))
    checks.expect(full["recomputed_values"] == 0 == full["more_flops"] and full["unlimited_peak_mb"] == peak,
                  "nothing is computed again unasked")
    checks.expect(least < 0.6 * peak and least <= limited["planned_peak_mb"] <= middle,
                  f"planned: {peak:.1f} MB, {limited['planned_peak_mb']:.1f} with a limit of {middle:.1f}, {least:.1f} MB")
    checks.expect(limited["unlimited_peak_mb"] == smallest["unlimited_peak_mb"] == peak, "the plan without a limit")
    checks.expect(0 < limited["recomputed_values"] <= smallest["recomputed_values"] and
                  0 < limited["more_flops"] < 0.4, f"computed again: {limited['recomputed_values']} values")
    estimate = json.loads(graft("inspect", step[2], "--batch", 16, "--json"))["training_steps"][0]
    checks.expect(estimate["smallest_peak_bytes"] == round(least * 2**20) and
                  estimate["planned_peak_bytes"] == round(peak * 2**20), f"inspect says so too: {estimate}")
    for name, report in (("full", full), ("limited", limited), ("smallest", smallest)):
        planned, grown = report["planned_growth_mb"], report["resident_growth_mb"]
        checks.expect(planned < 200 or abs(grown - planned) <= 0.05 * planned,
                      f"{name}: planned {planned:.1f} MB, grown by {grown:.1f} MB")


def check_training(graft, checks, models):
    rng = np.random.default_rng(0)
    data = graft.folder / "data.npz"
    np.savez(data, x=rng.standard_normal((40, 1, 8, 8), np.float32), y=rng.integers(0, 3, 40))
    train = ["train", "--model", models / "small_cnn.onnx", "--data", data, "--batch-size", 16, "--epochs", 2,
             "--val-split", 0.2, "--log", "plain"]

    def trained(name, *flags):
        done = graft.call(*train, "--out", graft.folder / name, *flags)
        checks.expect(done.returncode == 0, f"{name}: {done.stderr.strip()[-300:]}")
        return (graft.folder / name / "model.onnx").read_bytes(), done.stderr

    wanted, said = trained("kept")
    checks.expect("recompute:" not in said, "nothing is said where nothing is asked for")
    for name, *flags in (("all", "--recompute", "all"), ("none", "--recompute", "none", "--memory-limit", "1G"),
                         ("roomy", "--memory-limit", "1G"), ("windows", "--recompute", "auto")):
        model, said = trained(name, *flags)
        checks.expect(model == wanted, f"{name}: the model is the same to the bit")
        line = re.search(r"recompute: (\d+) values, planned peak ([\d.]+) -> ([\d.]+) MB, about \+[\d.]+ % work", said)
        checks.expect(line and (int(line[1]) > 0) == (name == "all") and float(line[3]) <= float(line[2]),
                      f"{name}: {line and line[0]}")
    config = (graft.folder / "roomy" / "config.yaml").read_text()
    checks.expect("memory_limit: 1G" in config, "config.yaml holds the limit")
    return train


def check_optimizer_state(graft, checks, models, train):
    """Moments on the disk: where the limit wants it, as planned, to the same bits, also from one place to the other."""
    step = ["bench", "step", models / "mobilenet_v2.onnx", "--batch", 16, *STEP]
    least = json.loads(graft(*step, "--recompute", "all"))["planned_peak_mb"]
    moved = json.loads(graft(*step, "--memory-limit", f"{least - 1:.1f}M"))
    planned, grown, on_disk = (moved[key] for key in ("planned_growth_mb", "resident_growth_mb", "optimizer_state_disk_mb"))
    checks.expect(moved["planned_peak_mb"] <= least - 1 and on_disk > 10, f"{on_disk} MB on the disk")
    checks.expect(abs(grown - planned) <= 0.05 * planned, f"planned {planned:.1f} MB, grown by {grown:.1f} MB")
    checks.expect(moved["allocations"] == 0 == moved["descriptors"], "steps allocate nothing")
    kept = (graft.folder / "kept" / "model.onnx").read_bytes()
    steady, straight = [*train, "--schedule", "constant", "--warmup", 0], graft.folder / "straight"
    graft(*steady, "--out", straight)
    for name, first, second in (("to_disk", "memory", "disk"), ("to_memory", "disk", "memory"), ("disk", "disk", "disk")):
        out = graft.folder / name
        graft(*steady, "--out", out, "--max-steps", 2, "--optimizer-state", first)  # an epoch
        said = graft.call("train", "--out", out, "--resume", "--max-steps", 4, "--optimizer-state", second).stderr
        checks.expect((f"optimizer state: 0.0 MB in a file in {out}" in said) == (second == "disk"), f"{name}: {said[-300:]}")
        checks.expect((out / "model.onnx").read_bytes() == (straight / "model.onnx").read_bytes(), f"{name}: the same bits")
    graft(*train, "--out", graft.folder / "on_disk", "--optimizer-state", "disk")
    checks.expect((graft.folder / "on_disk" / "model.onnx").read_bytes() == kept, "on the disk: the same model")
    (graft.folder / "file").write_text("")
    environment = {**os.environ, "TMPDIR": str(graft.folder / "file" / "below")}
    done = graft.call(*step, "--optimizer-state", "disk", env=environment)
    checks.expect(done.returncode == DEVICE and "TMPDIR" in done.stderr, f"a folder that is none: {done.stderr[-300:]}")


def check_refusals(graft, checks, models, train):
    folder = graft.folder / "refusals"
    folder.mkdir()
    step = ["bench", "step", models / "small_cnn.onnx", "--batch", 512]
    least = [json.loads(graft(*step[:4], batch, *STEP, "--recompute", "all"))["planned_peak_mb"] for batch in (1, 512)]
    low = f"{sum(least) / 2:.3f}M"
    cases = {"a size that is none": (step + ["--memory-limit", "much"], "500M"),
             "a size without a number": (step + ["--memory-limit", "G"], "500M"),
             "a unit that is none": (step + ["--memory-limit", "5X"], "500M"),
             "a size with more behind it": (step + ["--memory-limit", "5Gibi"], "500M"),
             "a size below 0": (step + ["--memory-limit", "-5G"], "500M"),
             "a size of 0": (step + ["--memory-limit", "0"], "500M"),
             "a size beyond 64 bits": (step + ["--memory-limit", "99999999999T"], "500M"),
             "a choice that is none": (step + ["--recompute", "some"], "auto"),
             "a place that is none": (step + ["--optimizer-state", "tape"], "disk"),
             "a limit with moments in memory": (step + ["--memory-limit", low, "--optimizer-state", "memory"],
                                                "with the optimizer state in memory"),
             "a limit below every step": (step + ["--memory-limit", "10K"], "no batch fits"),
             "a limit below the step": (step + ["--memory-limit", low], "the largest batch that fits is"),
             "a limit with nothing computed again": (step + ["--memory-limit", low, "--recompute", "none"],
                                                     "the largest batch that fits is"),
             "training below a limit": (train + ["--memory-limit", "10K", "--out", folder / "run"], "no batch fits")}
    for name, (arguments, word) in cases.items():
        if "training" in name:  # leaves a folder with the configuration
            done = graft.call(*arguments)
            checks.expect(done.returncode == USAGE and word in done.stderr, f"{name}: {done.stderr.strip()}")
        else:
            refused(graft, checks, name, arguments, {USAGE}, folder, word)
    fitting = int(re.search(r"largest batch that fits is (\d+)", graft.call(*cases["a limit below the step"][0]).stderr)[1])
    small = ["bench", "step", models / "small_cnn.onnx", "--memory-limit", low, *STEP]
    checks.expect(graft.call(*small, "--batch", fitting).returncode == 0 and
                  graft.call(*small, "--batch", fitting + 1).returncode == USAGE, f"a batch of {fitting} is the largest")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    check_plans(graft, checks, models)
    train = check_training(graft, checks, models)
    check_optimizer_state(graft, checks, models, train)
    check_refusals(graft, checks, models, train)
    checks.finish()


main()

"""`graft bench`: bench.py GRAFT MODELS_DIR. Figures are checked for sense, not for size: the machine may be busy."""
import json
import math
import os
import pathlib
import sys

import onnx

from hostile_models import model
from support import Checks, Graft, refused

FAILED, USAGE, MODEL, DATA, UNSUPPORTED = 1, 2, 3, 4, 5
SHORT = ["--seconds", "0.02"]
MACHINE = {"threads", "gflops_f32", "gflops_f32_tiles", "gflops_f64", "gflops_bf16", "memory_gb_per_s", "cache_gb_per_s", "cache_bytes", "load"}
WORK = {"ms", "gflops", "gb_per_s", "limit_ms", "share_of_limit"}
STEP = {"min_ms", "median_ms", "samples_per_s", "gflops", "limit_ms", "share_of_limit", "peak_rss_mb",
        "planned_peak_mb", "allocations", "descriptors", "reorders", "steps", "kernels", "compile_ms", "resident_growth_mb",
        "planned_growth_mb", "gb_per_s", "recomputed_values", "unlimited_peak_mb", "more_flops"}


def near(a, b, tolerance=1e-6):
    return math.isclose(a, b, rel_tol=tolerance)


def check_step(graft, checks, models):
    report = json.loads(graft("bench", "step", models / "small_cnn.onnx", "--batch", 4, "--json", "--rounds", 9,
                              "--seconds", 0, "--threads", 1))
    checks.expect(STEP <= set(report) and set(report["machine"]) == MACHINE, f"step: keys {sorted(report)}")
    checks.expect(report["machine"]["threads"] == 1 and report["machine"]["gflops_f32"] > 0, "step: the machine")
    checks.expect(report["steps"] == 9 and 0 < report["min_ms"] <= report["median_ms"], "step: min, median, --rounds")
    checks.expect(report["batch"] == 4 and near(report["samples_per_s"], 4e3 / report["min_ms"]), "step: samples/s")
    checks.expect(near(report["share_of_limit"], report["limit_ms"] / report["min_ms"]) and report["limit_ms"] > 0,
                  "step: share of the limit")
    checks.expect(report["allocations"] == 0 and report["reorders"] >= 0 and report["kernels"] > 0, "step: counters")
    checks.expect(report["peak_rss_mb"] > report["resident_growth_mb"] and report["planned_peak_mb"] > 0 and
                  report["planned_peak_mb"] > report["planned_growth_mb"], "step: memory")
    operators = report["operators"]
    checks.expect(all(WORK | {"operator", "direction", "nodes"} == set(o) for o in operators), "step: operators")
    checks.expect({o["direction"] for o in operators} == {"forward", "backward", "optimiser"}, "step: directions")
    conv = [o for o in operators if o["operator"] == "Conv"]
    checks.expect(len(conv) == 1 and conv[0]["gflops"] > 0 and sum(o["nodes"] for o in operators) == report["kernels"],
                  "step: every kernel counts")
    checks.expect(near(sum(o["limit_ms"] for o in operators), report["limit_ms"]), "step: limits add up")

    text = graft("bench", "step", models / "small_cnn.onnx", "--batch", 4, *SHORT)
    checks.expect(text.startswith("machine") and "% of it reached" in text and "Adam" in text, "step: the table")
    apart = json.loads(graft("bench", "step", models / "small_cnn.onnx", "--batch", 4, "--disable", "all", "--json",
                             *SHORT))
    checks.expect(apart["kernels"] > report["kernels"], f"step: --disable: {apart['kernels']} kernels")
    padded = json.loads(graft("bench", "step", models / "minilm.onnx", "--batch", 2, "--dim", "sequence=16", "--shortest",
                              5, "--json", *SHORT))
    checks.expect(padded["allocations"] == 0 and padded["dims"]["attention_mask"] == [2, 16], "step: --shortest")
    sgd = json.loads(graft("bench", "step", models / "small_mlp.onnx", "--batch", 3, "--json", "--optimizer", "sgd",
                           "--loss", "bce", *SHORT))
    names = {o["operator"] for o in sgd["operators"]}
    checks.expect("Sgd" in " ".join(names).title() and "Adam" not in names and
                  any("Sigmoid" in name for name in names), f"step: --loss and --optimizer: {sorted(names)}")


def check_steady(graft, checks, models):
    """A steady step allocates nothing, makes no descriptors and changes no activation's layout."""
    for name, *flags in [("mlp",), ("resnet18",), ("resnet50",), ("mobilenet_v2",), ("minilm", "--dim", "sequence=16")]:
        report = json.loads(graft("bench", "step", models / f"{name}.onnx", "--batch", 2, *flags, "--json", "--rounds", 2,
                                  "--seconds", 0))
        counts = {key: report[key] for key in ("allocations", "descriptors", "reorders")}
        checks.expect(not any(counts.values()), f"step: {name}: {counts}")


def check_frozen(graft, checks, models):
    weights = [i.name for i in onnx.load(models / "small_mlp.onnx").graph.initializer]
    full, part = (json.loads(graft("bench", "step", models / "small_mlp.onnx", "--batch", 3, "--json", *SHORT, *flags))
                  for flags in ([], ["--freeze", weights[0]]))
    adam = [sum(o["nodes"] for o in r["operators"] if o["operator"] == "Adam") for r in (full, part)]
    checks.expect(adam[1] == adam[0] - 1, f"step: --freeze {weights[0]}: {adam} optimiser nodes")


def check_trace(graft, checks, models):
    path = graft.folder / "trace.json"
    report = json.loads(graft("bench", "step", models / "small_mlp.onnx", "--batch", 3, "--json", "--trace", path,
                              *SHORT))
    events = json.loads(path.read_text())["traceEvents"]
    checks.expect(len(events) == report["kernels"] and all(e["ph"] == "X" and e["dur"] >= 0 for e in events),
                  f"--trace: {len(events)} events")
    checks.expect(all(a["ts"] <= b["ts"] for a, b in zip(events, events[1:])), "--trace: in order")
    checks.expect({e["cat"] for e in events} == {"forward", "backward", "optimiser"}, "--trace: directions")


def check_text_model(graft, checks, models):
    """Several inputs: ids within their table, a mask, a free dimension beside the batch."""
    path = models / "minilm_classifier.onnx"
    names = {d.dim_param for v in onnx.load(path).graph.input for d in v.type.tensor_type.shape.dim}
    batch = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    free = sorted(names - {batch})
    flags = [f for name in free for f in ("--dim", f"{name}=5")]
    report = json.loads(graft("bench", "step", path, "--batch", 2, *flags, "--rounds", 1, "--json", *SHORT))
    checks.expect(all(d == [2, 5] for d in report["dims"].values()) and len(report["dims"]) > 1,
                  f"several inputs: {report['dims']}")
    done = graft.call("bench", "step", path)
    checks.expect(done.returncode == USAGE and all(f'"{n}"' in done.stderr for n in free + [batch]) and
                  "--batch" in done.stderr and f"--dim {free[0]}=N" in done.stderr,
                  f"free dimensions are listed: {done.stderr.strip()}")


def check_ops(graft, checks, models):
    report = json.loads(graft("bench", "ops", "--filter", "Softma*", "--backward", "--json", *SHORT))
    cases = report["cases"]
    checks.expect([(c["operator"], c["direction"]) for c in cases] == [("Softmax", "forward"), ("Softmax", "backward")],
                  "ops: --filter and --backward")
    checks.expect(all(WORK | {"operator", "operands", "direction", "reorder_ms"} == set(c) and c["ms"] > 0 and
                      c["limit_ms"] > 0 for c in cases), "ops: keys")
    shapes = graft.folder / "shapes.txt"
    shapes.write_text("# two\nRelu 4x8\nReduceMean keepdims=0 4x8 {1}  # over rows\n")
    report = json.loads(graft("bench", "ops", "--shapes", shapes, "--dtype", "f64", "--json", *SHORT))
    checks.expect([c["operator"] + " " + c["operands"] for c in report["cases"]] ==
                  ["Relu 4x8", "ReduceMean keepdims=0 4x8 {1}"], "ops: --shapes")
    single = json.loads(graft("bench", "ops", "--shapes", shapes, "--json", *SHORT))
    wide, narrow = (r["cases"][0]["gb_per_s"] * r["cases"][0]["ms"] * 1e6 for r in (report, single))
    checks.expect(near(narrow, 4 * 64) and near(wide, 8 * 64), f"ops: --dtype f64 moves twice the bytes: {wide:.0f}")
    text = graft("bench", "ops", "--shapes", shapes, *SHORT)
    checks.expect(text.startswith("machine") and "ReduceMean" in text, "ops: the table")


def check_model_ops(graft, checks, models):
    path = models / "small_cnn.onnx"
    forward, training = (json.loads(graft("bench", "ops", "--model", path, "--batch", 4, "--json", *SHORT, *flags))
                         for flags in ([], ["--backward"]))
    checks.expect({n["direction"] for n in forward["nodes"]} == {"forward"} and
                  {n["direction"] for n in training["nodes"]} == {"forward", "backward", "optimiser"},
                  "ops --model: directions")
    sources = {n.name or n.output[0] for n in onnx.load(path).graph.node if n.op_type == "Conv"}
    checks.expect(sources == {n["of"] for n in forward["nodes"] if n["operator"] == "Conv"}, "ops --model: its nodes")
    only = json.loads(graft("bench", "ops", "--model", path, "--batch", 4, "--json", "--filter", "Conv*", "--backward",
                            *SHORT))
    checks.expect(only["nodes"] and all(n["operator"].startswith("Conv") for n in only["nodes"]) and
                  all(o["operator"].startswith("Conv") for o in only["operators"]), "ops --model: --filter")
    text = graft("bench", "ops", "--model", path, "--batch", 4, *SHORT)
    checks.expect("furthest from their limits" in text, "ops --model: the table")


def check_refusals(graft, checks, models):
    folder = graft.folder / "refusals"
    folder.mkdir()
    blocked = folder / "blocked.onnx"  # neither kernel nor gradient for the determinant and Hardmax
    blocked.write_bytes(model(
        "g (float[N, 4] x) => (float[N, 4] y) { w = Constant <value = float[4, 4] {%s}> ()  h = MatMul(x, w)  "
        "s = Constant <value = int64[3] {-1, 1, 1}> ()  cube = Reshape(h, s)  d = Det(cube)  n = Constant <value = "
        "int64[2] {-1, 4}> ()  e = Reshape(d, n)  y = Hardmax(e) }" % ", ".join(["0.5"] * 16)).SerializeToString())
    huge = folder / "huge.txt"
    huge.write_text("MatMul 1000000x1000000 1000000x1000000\n")
    broken = folder / "broken.txt"
    broken.write_text("Relu 4x8\nRelu 4y8\n")
    wrong = folder / "wrong.txt"
    wrong.write_text("MatMul 2x3 4x5\n")
    unknown = folder / "unknown.txt"
    unknown.write_text("Reul 4\n")
    mlp = models / "small_mlp.onnx"
    step, ops = ["bench", "step", mlp, "--batch", "3"], ["bench", "ops"]
    cases = {"no verb": (["bench"], USAGE, "ops, step"),
             "a verb that is none": (["bench", "stpe"], USAGE, "nearest: step"),
             "an unknown flag of step": (step + ["--bacth", "3"], USAGE, "--batch"),
             "an unknown flag of ops": (ops + ["--fliter", "x"], USAGE, "--filter"),
             "no batch": (["bench", "step", mlp], USAGE, "--batch N"),
             "a dimension that is none": (step + ["--dim", "S=3"], USAGE, '"N"'),
             "a batch of 0": (["bench", "step", mlp, "--batch", "0"], USAGE, "--batch"),
             "padding without a mask": (step + ["--shortest", "1"], USAGE, "mask"),
             "no tokens": (step + ["--shortest", "0"], USAGE, "--shortest"),
             "seconds that are none": (step + ["--seconds", "-1"], USAGE, "--seconds"),
             "a filter that matches nothing": (ops + ["--filter", "Sofmax"], USAGE, '"Softmax"'),
             "a filter that matches nothing in the model": (ops + ["--model", mlp, "--batch", "3", "--filter", "Rellu"],
                                                            USAGE, '"Relu"'),
             "--batch without --model": (ops + ["--batch", "3"], USAGE, "--model"),
             "--shapes with --model": (ops + ["--shapes", huge, "--model", mlp], USAGE, "--shapes"),
             "a glob that freezes nothing": (step + ["--freeze", "nothing"], USAGE, "nearest"),
             "everything frozen": (step + ["--freeze", "*"], USAGE, "frozen"),
             "a loss that is none": (step + ["--loss", "cros_entropy"], USAGE, "cross_entropy"),
             "step in f16": (step + ["--dtype", "f16"], UNSUPPORTED, "f16"),
             "step on cuda": (step + ["--device", "cuda"], UNSUPPORTED, "cuda"),
             "ops in f16": (ops + ["--dtype", "f16"], UNSUPPORTED, "f16"),
             "a dtype that is none": (ops + ["--dtype", "f23"], USAGE, "f32"),
             "nodes that cannot be trained": (["bench", "step", blocked, "--batch", "2"], UNSUPPORTED, "Det"),
             "nodes of ops that cannot be trained": (["bench", "ops", "--model", blocked, "--batch", "2", "--backward"],
                                                     UNSUPPORTED, "Det"),
             "a model that is not there": (["bench", "step", folder / "none.onnx", "--batch", "1"], None, "none.onnx"),
             "shapes that are not there": (ops + ["--shapes", folder / "none.txt"], DATA, "none.txt"),
             "a shape that is none": (ops + ["--shapes", broken], DATA, "line 2"),
             "shapes that do not fit": (ops + ["--shapes", wrong], DATA, "line 1"),
             "an operator that is none": (ops + ["--shapes", unknown], DATA, '"Relu"'),
             "operands larger than memory": (ops + ["--shapes", huge], FAILED, "MiB"),
             "a batch larger than memory": (["bench", "step", mlp, "--batch", str(2**31)], FAILED, "MiB"),
             "a trace without its folder": (step + SHORT + ["--trace", folder / "no" / "t.json"], FAILED, "t.json")}
    for name, (arguments, code, word) in cases.items():
        refused(graft, checks, name, arguments, {code} if code else {MODEL, FAILED}, folder, word)
    for arguments in (["step", blocked], ["ops", "--backward", "--model", blocked]):
        said = graft.call("bench", *arguments, "--batch", 2).stderr
        checks.expect("2 node(s)" in said and all(f"[{t} " in said for t in ("Det", "Hardmax")) and
                      said.count("has no gradient") == 2, f"{arguments[0]}: all nodes, with what every pass refuses")


def check_autotune(graft, checks, models):
    """What is measured is said on stderr, kept, and measured once; an unwritable folder is no failure."""
    cache = graft.folder / "cache"

    def step(folder, *flags):
        done = graft.call("bench", "step", models / "small_mlp.onnx", "--batch", 64, "--json", *SHORT, *flags,
                          env={**os.environ, "XDG_CACHE_HOME": str(folder)})
        checks.expect(done.returncode == 0, f"autotune: exit code {done.returncode} {done.stderr.strip()[-300:]}")
        report = json.loads(done.stdout)
        checks.expect(report["allocations"] == 0 and report["descriptors"] == 0, "autotune: a steady step")
        return done.stderr

    checks.expect("autotune" not in step(cache) and not cache.exists(), "without --autotune nothing is measured")
    first, second = step(cache, "--autotune"), step(cache, "--autotune")
    files = list((cache / "graft").glob("kernels-*.json"))
    checks.expect("measuring" in first and len(files) == 1, f"autotune: measures {first.strip()}")
    checks.expect("measuring" not in second and " 0 measured" in second, f"autotune: once {second.strip()}")
    files[0].write_text("{")
    broken = step(cache, "--autotune")
    checks.expect("warning" in broken and "damaged" in broken and "measuring" in broken, f"autotune: {broken.strip()}")
    file = graft.folder / "file"
    file.write_text("")
    checks.expect("XDG_CACHE_HOME" in step(file, "--autotune"), "autotune: a cache that cannot be written")


def check_help(graft, checks):
    for verb in (["bench"], ["bench", "ops"], ["bench", "step"]):
        text = graft(*verb, "--help")
        checks.expect("Examples:" in text and "graft bench" in text, f"{' '.join(verb)} --help has examples")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    check_step(graft, checks, models)
    check_steady(graft, checks, models)
    check_frozen(graft, checks, models)
    check_trace(graft, checks, models)
    check_text_model(graft, checks, models)
    check_ops(graft, checks, models)
    check_model_ops(graft, checks, models)
    check_refusals(graft, checks, models)
    check_autotune(graft, checks, models)
    check_help(graft, checks)
    checks.finish()


main()

"""What `graft inspect` says, against onnx's view of the same files: inspect_models.py GRAFT MODELS_DIR."""
import collections
import json
import os
import pathlib
import subprocess
import sys

import onnx
from onnx import helper

from hostile_models import model
from support import MODELS, Checks, Graft, refused

PASSES = ["lift", "classify", "specialise", "decompose", "recognise", "differentiate", "fuse", "lay_out"]


def report_of(graft, path, *arguments):
    return json.loads(graft("inspect", path, "--json", *arguments))


def dims_of(value):
    return [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in value.type.tensor_type.shape.dim]


def check_model(graft, checks, path):
    proto, report = onnx.load(path), report_of(graft, path)
    stored = {t.name for t in proto.graph.initializer}
    operators = dict(collections.Counter(n.op_type for n in proto.graph.node))
    expected = {"ir_version": proto.ir_version, "operators": operators,
                "opsets": {o.domain or "ai.onnx": o.version for o in proto.opset_import}}
    for key, value in expected.items():
        checks.expect(report[key] == value, f"{path.stem}: {key}")
    given = [v for v in proto.graph.input if v.name not in stored]
    for key, values in (("inputs", given), ("outputs", proto.graph.output)):
        described = [(v["name"], v["dims"]) for v in report[key]]
        checks.expect(described == [(v.name, dims_of(v)) for v in values], f"{path.stem}: {key} {described}")
    totals, entries = report["totals"], report["parameters"]
    counted = sum(e["count"] for e in entries if e["kind"] == "parameter")
    checks.expect(totals["parameters"] == totals["trainable"] == totals["selected"] == counted > 0,
                  f"{path.stem}: {counted} elements can be trained")
    checks.expect(not report["blockers"] and not report["without_gradient"], f"{path.stem}: nothing blocks training")
    steps = report["training_steps"]
    growing = [(s["planned_peak_bytes"], s["flops"]) for s in steps]
    checks.expect([s["batch"] for s in steps] == [1, 8, 32] and growing == sorted(growing)
                  and growing[0][0] > 3 * 4 * totals["trainable"], f"{path.stem}: cost of a step {growing}")


def check_arithmetic(graft, checks, models):
    """An MLP: each weight in a product forward, one for its gradient and, but for the first layer, one for the data."""
    step = report_of(graft, models / "mlp.onnx", "--batch", 64)["training_steps"][0]
    weights = [784 * 512, 512 * 512, 512 * 10]
    products = 2 * 64 * (3 * sum(weights) - weights[0])
    checks.expect(products <= step["flops"] <= 1.1 * products, f"mlp: {step['flops']:.3g} FLOP of {products:.3g}")


def check_globs(graft, checks, models):
    def selected(*arguments):
        entries = report_of(graft, models / "small_cnn.onnx", *arguments)["parameters"]
        return [e["name"] for e in entries if e["selected"]]

    checks.expect(selected("--train", "fc.*") == ["fc.weight", "fc.bias"], "--train fc.*")
    checks.expect(selected("--train", "*.bias", "--freeze", "bn*") == ["conv2.bias", "fc.bias"], "--train and --freeze")
    report = report_of(graft, models / "small_cnn.onnx", "--train", "fc.*")
    all_of_it = report_of(graft, models / "small_cnn.onnx")
    checks.expect(report["training_steps"][0]["flops"] < all_of_it["training_steps"][0]["flops"] / 2,
                  "a head costs less than half of the network")
    checks.expect(report["totals"]["selected"] == 4 * 8 + 4, f"elements selected: {report['totals']}")
    folder = graft.folder / "globs"
    folder.mkdir()
    refused(graft, checks, "glob without a match", ["inspect", models / "small_cnn.onnx", "--train", "cf.wieght"], {2},
            folder, word="fc.weight")


def check_dims(graft, checks, models):
    report = report_of(graft, models / "minilm.onnx", "--dim", "sequence=16", "--batch", 2, "--batch", 4)
    free = {d["name"]: d["of"] for d in report["free_dims"]}
    checks.expect(set(free) == {"batch", "sequence"} and "input_ids.1" in free["sequence"], f"free dims {free}")
    checks.expect([s["batch"] for s in report["training_steps"]] == [2, 4], "--batch twice")
    checks.expect(report["assumed_dims"] == {}, "given dims are not assumed")
    report = report_of(graft, models / "ppocr_cls.onnx", "--dim", "x.2=48")
    checks.expect(list(report["assumed_dims"]) == ["x.3"], f"assumed dims {report['assumed_dims']}")
    report = report_of(graft, models / "mlp.onnx", "--dim", "N=5")
    checks.expect([s["batch"] for s in report["training_steps"]] == [5], "--dim names the batch")


def check_choices(graft, checks, models):
    """With a batch: what each choice takes, as `graft bench step` plans it, and why one cannot be had."""
    cnn, mb = models / "small_cnn.onnx", 1 << 20
    flags = {"as asked": [], "all parameters": None, "--dtype bf16": ["--dtype", "bf16"],
             "--recompute none": ["--recompute", "none"], "--recompute all": ["--recompute", "all"],
             "--saved-activations bf16": ["--saved-activations", "bf16"],
             "--optimizer-state disk": ["--optimizer-state", "disk"]}
    report = report_of(graft, cnn, "--train", "fc.*", "--batch", 4)
    step = report["training_steps"][0]
    rows = {row["choice"]: row for row in step["choices"]}
    checks.expect(list(rows) == [*flags, "--cache-features memory"], f"choices {list(rows)}")
    checks.expect(report["machine"]["gflops_f32"] > 0, "choices: the machine")
    for name, more in flags.items():
        arguments = ["--train", "fc.*", *more] if more is not None else []
        planned = json.loads(graft("bench", "step", cnn, "--batch", 4, "--json", "--rounds", 1, "--seconds", 0, *arguments))
        checks.expect(rows[name]["planned_peak_bytes"] == round(planned["planned_peak_mb"] * mb), f"{name}: planned peak")
    asked, features = rows["as asked"], rows["--cache-features memory"]
    checks.expect(asked["relative_time"] == asked["relative_memory"] == 1, "the first row is what others are compared to")
    checks.expect(all(row["limit_ms"] > 0 and abs(row["samples_per_s"] * row["limit_ms"] / 4e3 - 1) < 1e-6
                      for row in rows.values()), "choices: samples/s")
    checks.expect(features["flops"] < asked["flops"] < rows["all parameters"]["flops"] and features["feature_bytes"] > 0,
                  "frozen parts save work")
    checks.expect((step["planned_peak_bytes"], step["flops"], step["smallest_peak_bytes"]) == (
        asked["planned_peak_bytes"], asked["flops"], rows["--recompute all"]["planned_peak_bytes"]), "keys of the step")
    rows = {row["choice"]: row for row in report_of(graft, cnn, "--batch", 4, "--dtype", "bf16", "--recompute", "all")[
        "training_steps"][0]["choices"]}
    checks.expect(list(rows) == ["as asked", "--dtype f32", "--recompute none", "--recompute auto",
                                 "--optimizer-state disk", "--cache-features memory"], f"choices {list(rows)}")
    checks.expect("no frozen part" in rows["--cache-features memory"]["error"], "why features cannot be kept")
    huge = report_of(graft, models / "mlp.onnx", "--batch", 2**32)["training_steps"][0]
    checks.expect("MiB" in huge["error"] and all("error" in row for row in huge["choices"]), "a batch that does not fit")
    text = graft("inspect", cnn, "--train", "fc.*", "--batch", 4)
    checks.expect("limit ms" in text and "1.00x" in text and "lower bound" in text and "bytes a sample" in text,
                  "choices: the table")
    checks.expect("choices" not in report_of(graft, cnn)["training_steps"][0], "no choices without --batch")


def check_blockers(graft, checks):
    """Every node that blocks is named, whichever pass refuses it; the rest is inspected all the same."""
    io = "g (float[N, 4] x, float[4, 4] w) => (float[N, 4] y) <float[4, 4] v = {%s}>" % ", ".join("1" * 16)
    path = graft.folder / "blocked.onnx"

    def blockers(body, *arguments):
        proto = model(f"{io} {{ {body} }}", 26, 10)
        for i, node in enumerate(proto.graph.node):
            node.name = f"node {i}"
        path.write_bytes(proto.SerializeToString())
        report = report_of(graft, path, *arguments)
        checks.expect(report["operators"] and report["totals"]["parameters"] == 16, f"{body}: inspected")
        return {(b["node"], b["operator"]): b["reason"] for b in report["blockers"]}, report

    found, report = blockers("a = MatMul(x, v)  b = Det(w)  i = Constant<value_int = 1>()  c = CumProd(a, i)  "
                             "y = Add(c, b)")
    checks.expect(set(found) == {("node 1", "Det"), ("node 3", "CumProd")}, f"two operators without kernels: {found}")
    checks.expect(all("error" in step for step in report["training_steps"]), "no cost where training is blocked")
    found, _ = blockers("a = MatMul(x, v)  i = NonZero(a)  y = Gather(a, i)")
    checks.expect(list(found) == [("node 1", "NonZero")], f"a shape from the data: {found}")
    found, report = blockers("a = MatMul(x, v)  b = Sign(a)  y = Add(b, x)")
    checks.expect(not found and report["without_gradient"] == ["v"], f"no gradient: {report['without_gradient']}")
    unranked = model(f"{io} {{ a = MatMul(x, v)  y = Relu(a) }}")
    unranked.graph.input[0].type.tensor_type.ClearField("shape")
    path.write_bytes(unranked.SerializeToString())
    report = report_of(graft, path)
    checks.expect("any shape" in report["blockers"][0]["reason"] and report["inputs"][0]["dims"] is None, "no rank")
    checks.expect("MatMul" in graft("inspect", path, "--after", "classify"), "--after a pass that needs no shapes")
    sequence = model("g (float[2] x) => (float[2] y) { s = SequenceConstruct(x)  i = Constant<value_int = 0>()  "
                     "y = SequenceAt(s, i) }")
    path.write_bytes(sequence.SerializeToString())
    report = report_of(graft, path)
    checks.expect(report["operators"].get("SequenceAt") == 1 and len(report["blockers"]) == 1, "a sequence")


def check_passes(graft, checks, models):
    for mode in ("train", "infer"):
        for name in PASSES:
            if mode == "infer" and name == "differentiate":
                continue
            text = graft("inspect", models / "small_cnn.onnx", "--after", name, "--mode", mode)
            checks.expect(text.startswith("main_graph (") and ("Adam" in text) == (
                mode == "train" and name in ("fuse", "lay_out")), f"--after {name} --mode {mode}")
    on, off, variable = (graft.call("inspect", models / "block.onnx", "--after", "recognise", *flags,
                                    env=os.environ | {"GRAFT_DISABLE": disabled}).stdout
                         for flags, disabled in [([], ""), (["--disable", "softmax,gelu"], ""), ([], "softmax,gelu")])
    checks.expect("Gelu" in on and "Gelu" not in off and "Erf" in off and variable == off, "--disable, GRAFT_DISABLE")
    path = graft.folder / "blocked.onnx"
    path.write_bytes(model("g (float[N, 4] x) => (float[N, 4] y) { a = NonZero(x)  y = Relu(x) }").SerializeToString())
    checks.expect("NonZero" in graft("inspect", path, "--after", "classify"), "--after a pass before what refuses")


def check_streams(graft, checks, models):
    """Results that nobody reads, or that cannot be written."""
    arguments = [graft.binary, "inspect", models / "minilm.onnx", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    checks.expect(done.returncode == 0 and not done.stderr, f"a closed pipe: exit code {done.returncode}")
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE)
    checks.expect(done.returncode == 1 and b"stdout" in done.stderr, f"a full disk: {done.stderr}")
    strange = model("g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    strange.graph.name = strange.producer_name = "\x1b[31mred"
    strange.graph.output.append(helper.make_tensor_value_info("\x1b]0;title\x07", 1, ["N", 4]))
    strange.graph.node[0].output[0] = strange.graph.output[0].name = strange.graph.output[1].name
    del strange.graph.output[1]
    path = graft.folder / "strange.onnx"
    path.write_bytes(strange.SerializeToString())
    text = graft("inspect", path) + graft("inspect", path, "--after", "fuse", "--mode", "infer")
    checks.expect("\x1b" not in text and "\\x1b" in text, "control characters do not reach the terminal")


def main():
    graft, models = Graft(sys.argv[1]), pathlib.Path(sys.argv[2])
    checks = Checks()
    for name in MODELS:
        check_model(graft, checks, models / f"{name}.onnx")
    for check in (check_arithmetic, check_globs, check_dims, check_choices, check_passes, check_streams):
        check(graft, checks, models)
    check_blockers(graft, checks)
    checks.finish()


main()

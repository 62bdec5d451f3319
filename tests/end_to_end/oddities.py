"""Valid models that are odd: oddities.py GRAFT MODELS_DIR. They run, backwards too, and agree with onnxruntime."""
import sys

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

from hostile_models import function_model, model
from support import Checks, Graft

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4)).astype(np.float32)
IO = "g (float[N, 4] x) => (float[N, 4] y)"


def nested_if(depth):
    inner = f"b{depth} = Relu(x)"
    for i in range(depth, 0, -1):
        inner = (f"b{i - 1} = If(c) <then_branch = t{i} () => (float[2] b{i}) {{ {inner} }}, "
                 f"else_branch = e{i} () => (float[2] f{i}) {{ f{i} = Neg(x) }}>")
    return model(f"g (float[2] x) => (float[2] b0) {{ c = Constant<value = bool {{1}}>()  {inner} }}")


def names():
    long = model(f"{IO} {{ a = Relu(x)  y = Neg(a) }}")
    long.graph.node[0].name = long.graph.node[0].output[0] = long.graph.node[1].input[0] = "n" * 2**20
    yield "names of 1 MiB", long, {"x": X}
    strange = model(f"{IO} {{ y = Relu(x) }}")
    strange.graph.node[0].name = "\x1b[31m"
    strange.graph.node[0].output[0] = strange.graph.output[0].name = "a/b ü\"\n.npy"
    yield "strange names", strange, {"x": X}
    domain = model(f"{IO} {{ y = Relu(x) }}")
    domain.opset_import[0].domain = "ai.onnx"
    yield "the long name of ONNX's domain", domain, {"x": X}


def graphs():
    yield "If 25 deep", nested_if(25), {"x": X[0, :2]}
    yield "nodes out of order", model(f"{IO} {{ y = Relu(b)  a = Neg(x)  b = Neg(a) }}"), {"x": X}
    yield "functions", function_model({"f": ["g", "g"], "g": ["Identity"]}, "f"), {"x": X[0]}
    yield "no input", model("g () => (float[2] y) { a = Constant<value = float[2] {1, -2}>()  y = Relu(a) }"), {}
    yield "input without rank", unranked(), {"x": X}
    yield "input as output", model("g (float[N, 4] x) => (float[N, 4] x) { y = Relu(x) }"), {"x": X}
    yield "inputs that nothing reads", model("g (float[N, 4] x, float[M] u, int64 i) => (float[N, 4] y) { y = Relu(x) }"
                                             ), {"x": X, "u": X[0], "i": np.array(4)}
    yield "constant output", model("g (float[N, 4] x) => (float[N, 4] y, int64[2] s) { y = Relu(x)  s = Shape(x) }"
                                   ), {"x": X}
    yield "one value under three names", model("g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z, float[N, 4] v) "
                                               "{ y = Relu(x)  z = Relu(x)  v = Identity(y) }"), {"x": X}
    conv = convolution()
    conv.graph.output.append(helper.make_tensor_value_info("w", 1, [16, 3, 3, 3]))
    yield "weight as output", conv, {"x": RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)}


def unranked():
    any_rank = model("g (float[] x) => (float[A, B] y) { y = Relu(x) }")
    any_rank.graph.input[0].type.tensor_type.ClearField("shape")
    return any_rank


def convolution():
    conv = model("g (float[N, 3, 8, 8] x) => (float[N, 16, 6, 6] y) { y = Conv(x, w) }")
    weights = RNG.standard_normal((16, 3, 3, 3)).astype(np.float32)
    conv.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return conv


def shapes():
    yield "scalars", model("g (float x) => (float y) { y = Exp(x) }"), {"x": np.array(2, np.float32)}
    empty = np.zeros((0, 4), np.float32)
    yield "empty batch", model(f"{IO} <float[4, 4] w = {{{', '.join(map(str, range(16)))}}}> "
                               "{ a = MatMul(x, w)  b = Relu(a)  y = Softmax(b) }"), {"x": empty}
    yield "sum of nothing", model("g (float[N, 4] x) => (float[4] y) { a = Constant<value = int64[1] {0}>()  "
                                  "y = ReduceSum<keepdims = 0>(x, a) }"), {"x": empty}
    yield "empty parts", model("g (float[N, 4] x) => (float[M, 4] y) { a = Relu(x)  y = Concat<axis = 0>(a, x) }"
                               ), {"x": empty}
    yield "empty batch of images", convolution(), {"x": np.zeros((0, 3, 8, 8), np.float32)}
    yield "doubles", model("g (double[2] x) => (double[2] y) { y = Tanh(x) }"), {"x": X[0, :2].astype(np.float64)}


def check(graft, checks, name, proto, inputs):
    path = graft.folder / "odd.onnx"
    path.write_bytes(proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options)
    references = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs)))
    outputs = graft.run(path, inputs)
    same = set(outputs) == set(references) and all(
        (outputs[key].shape, outputs[key].dtype) == (r.shape, r.dtype) and np.allclose(outputs[key], r, atol=1e-4)
        for key, r in references.items())
    checks.expect(same, f"{name}: onnxruntime's results")
    cotangents = {key: np.ones_like(r) for key, r in references.items() if r.dtype.kind == "f"}
    gradients = graft.run(path, inputs, cotangents, mode="train")
    wanted = {f"grad:{key}" for key, a in inputs.items() if a.dtype.kind == "f"}
    checks.expect(wanted <= set(gradients), f"{name}: gradients")
    graft("inspect", path, "--json")


def main():
    graft, checks = Graft(sys.argv[1]), Checks()
    for part in (names, graphs, shapes):
        for name, proto, inputs in part():
            try:
                check(graft, checks, name, proto, inputs)
            except RuntimeError as error:
                checks.expect(False, f"{name}: {error}")
    checks.finish()


main()

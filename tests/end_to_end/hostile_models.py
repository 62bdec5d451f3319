"""Models that must be refused. `write_all(folder)` gives (name, path, allowed exit codes) for each."""
import os
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

MODEL, UNSUPPORTED, FAILED = 3, 5, 1


def model(text, version=17, ir=8):
    """A model from ONNX text: graph signature and nodes."""
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {version}]>\n{text}')


def weights_model(tensor):
    """y = x + w with the given tensor as w."""
    m = model("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }")
    tensor.name = "w"
    m.graph.initializer.append(tensor)
    return m


def raw_tensor(dims, data, dtype=TensorProto.FLOAT):
    return TensorProto(data_type=dtype, dims=dims, raw_data=data)


def external_tensor(**entries):
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def field(number, payload):
    """A length-delimited protobuf field."""
    def varint(value):
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def nested_if(depth):
    """Bytes of a model with If in If: deeper than protobuf's own classes let one build."""
    graph = model("g (float[4] x) => (float[4] y) { y = Relu(x) }").graph.SerializeToString()
    for i in range(depth):
        branch = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH)
        node = onnx.NodeProto(op_type="If", input=["c"], output=[f"y{i}"])
        graph = field(1, node.SerializeToString() + field(5, branch.SerializeToString() + field(6, graph)))
    return model("g (bool c) => (float[4] y) { }").SerializeToString() + field(7, graph)


def function_model(bodies, call):
    """bodies: name -> list of called functions, one argument each."""
    opsets, functions = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)], []
    for name, called in bodies.items():
        nodes = [helper.make_node(f, ["x"] if i == 0 else [f"v{i}"], [f"v{i + 1}"],
                                  domain="" if f == "Identity" else "local") for i, f in enumerate(called)]
        nodes.append(helper.make_node("Identity", [f"v{len(called)}"], ["y"]))
        functions.append(helper.make_function("local", name, ["x"], ["y"], nodes, opsets))
    graph = helper.make_graph([helper.make_node(call, ["x"], ["y"], domain="local")], "g",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])])
    return helper.make_model(graph, ir_version=8, functions=functions, opset_imports=opsets)


def graphs():
    """Wrong graphs, versions and operators."""
    io = "g (float[N, 4] x) => (float[N, 4] y)"
    yield "unknown operator", model(f"{io} {{ y = Frobnicate(x) }}"), {MODEL, UNSUPPORTED}
    unknown = model(f"{io} {{ y = Relu(x) }}")
    unknown.graph.node[0].domain = "com.example"
    yield "unknown domain", unknown, {MODEL, UNSUPPORTED}
    for version in (-1, 0, 3, 29, 9999, 2**40):
        yield f"opset {version}", model(f"{io} {{ y = Relu(x) }}", version), {MODEL, UNSUPPORTED}
    for ir in (0, 2, 9999, 2**40):
        changed = model(f"{io} {{ y = Relu(x) }}")
        changed.ir_version = ir
        yield f"IR {ir}", changed, {MODEL, UNSUPPORTED}
    bare = model(f"{io} {{ y = Relu(x) }}")
    del bare.opset_import[:]
    yield "no opset", bare, {MODEL}
    yield "no graph", onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]), {MODEL}
    mute = model(f"{io} {{ y = Relu(x) }}")
    del mute.graph.output[:]
    yield "no output", mute, {MODEL}
    yield "cycle", model(f"{io} {{ a = Add(x, b)  b = Relu(a)  y = Relu(b) }}"), {MODEL}
    yield "node that reads itself", model(f"{io} {{ a = Add(x, a)  y = Relu(a) }}"), {MODEL}
    yield "missing value", model(f"{io} {{ y = Add(x, nowhere) }}"), {MODEL}
    yield "output without producer", model(f"{io} {{ z = Relu(x) }}"), {MODEL}
    yield "value defined twice", model(f"{io} {{ y = Relu(x)  y = Sigmoid(x) }}"), {MODEL}
    yield "input redefined", model("g (float[N] x) => (float[N] y) { x = Relu(x)  y = Relu(x) }"), {MODEL}
    twice = weights_model(numpy_helper.from_array(np.ones(4, np.float32)))
    twice.graph.initializer.append(twice.graph.initializer[0])
    yield "initializer twice", twice, {MODEL}
    yield "input twice", model("g (float[N] x, float[N] x) => (float[N] y) { y = Relu(x) }"), {MODEL}
    yield "too many operands", model(f"{io} {{ y = Relu(x, x, x) }}"), {MODEL}
    yield "too few operands", model(f"{io} {{ y = Add(x) }}"), {MODEL}
    yield "nested 2000 deep", nested_if(2000), {MODEL, UNSUPPORTED}
    yield "recursive function", function_model({"f": ["f"]}, "f"), {MODEL}
    yield "functions in a circle", function_model({"f": ["g"], "g": ["f"]}, "f"), {MODEL}
    doubling = {f"f{i}": [f"f{i + 1}"] * 2 for i in range(40)} | {"f40": ["Identity"]}
    yield "functions that double 40 times", function_model(doubling, "f0"), {MODEL, UNSUPPORTED}
    chain = {f"f{i}": [f"f{i + 1}"] for i in range(5000)} | {"f5000": ["Identity"]}
    yield "functions 5000 deep", function_model(chain, "f0"), {MODEL}
    missing = model(f"{io} {{ y = Relu(z) }}")
    missing.graph.node[0].input[0] = "z" * 2**20
    yield "missing value with a name of 1 MiB", missing, {MODEL}


def bodies():
    """Wrong subgraphs, and loops, whose length nobody knows."""
    io = "g (bool c, float[2] x) => (float[2] y)"
    then = "then_branch = t () => (float[2] a) { a = Relu(x) }"
    for name, result, codes in [("If on the data", "b", {UNSUPPORTED}), ("body that shadows", "x", {MODEL})]:
        other = f"else_branch = e () => (float[2] {result}) {{ {result} = Neg(x) }}"
        yield name, model(f"{io} {{ y = If(c) <{then}, {other}> }}"), codes
    yield "If without else", model(f"{io} {{ y = If(c) <{then}> }}"), {MODEL}
    yield "body on an ordinary operator", model(f"{io} {{ y = Relu<body = b () => (float[2] a) {{ a = Neg(x) }}>(x) }}"
                                                ), {MODEL}
    start = f"{io} {{ t = Constant<value = bool {{1}}>()  n = Constant<value_int = 1152921504606846976>()"
    body, nodes = "b (int64 i, bool g, float[2] v) => (bool m, float[2] r)", "{ m = Identity(g)  r = Relu(v) }"
    for name, count in {"endless Loop": "", "Loop of 2^60 rounds": "n"}.items():
        yield name, model(f"{start} y = Loop({count}, t, x) <body = {body} {nodes}> }}"), {MODEL, UNSUPPORTED}
    yield "Loop input that is an initializer", model(
        f"{start} y = Loop(n, t, x) <body = {body} <float[2] v = {{1, 2}}> {nodes}> }}"), {MODEL}
    yield "sequence", model(f"{io} {{ s = SequenceConstruct(x)  i = Constant<value_int = 0>()  y = SequenceAt(s, i) }}"
                            ), {UNSUPPORTED}


def shapes_from_data():
    """Results whose shape only the data tell, with a declared one that is a lie."""
    for inputs, node in [
            ("float[2, 4] x, int64[2] s", "Reshape(x, s)"), ("float[2, 1] x, int64[2] s", "Expand(x, s)"),
            ("float[2, 4] x, int64[2] s", "Tile(x, s)"), ("int64[2] s", "ConstantOfShape(s)"),
            ("float[2, 4] x, int64[1] s", "Slice(x, s, s)"), ("float[2, 4] x, int64[4] s", "Pad(x, s)"),
            ("float[2, 4] x, int64[1] s", "ReduceSum(x, s)"), ("float[1, 4] x, int64[1] s", "Squeeze(x, s)"),
            ("float[1, 2, 4] x, int64[3] s", "Resize(x, , , s)"), ("bool[2, 4] x, float[2, 4] z", "Compress(z, x)"),
            ("float s, float x", "Range(x, s, s)")]:
        lying = model(f"g ({inputs}) => (float[3, 5] y) {{ y = {node} }}")
        yield f"shape from data: {node}", lying, {MODEL, UNSUPPORTED}
    for node in ("TopK(x, s)", "Split<axis = 1>(x, s)"):
        yield f"shape from data: {node}", model(
            f"g (float[2, 4] x, int64[1] s) => (float[3, 5] y) {{ y, z = {node} }}"), {MODEL, UNSUPPORTED}
    yield "shape from data: NonZero", model("g (float[2, 4] x) => (int64[2, 9] y) { y = NonZero(x) }"), {UNSUPPORTED}
    yield "shape from data: OneHot", model("g (int64[2] x, int64 s) => (float[3, 5] y) { v = Constant<value = float[2] "
                                           "{0, 1}>()  y = OneHot(x, s, v) }"), {MODEL, UNSUPPORTED}


def tensors():
    """Wrong weights."""
    yield "raw data short", weights_model(raw_tensor([4], b"\0" * 12)), {MODEL}
    yield "raw data long", weights_model(raw_tensor([4], b"\0" * 20)), {MODEL}
    yield "raw data missing", weights_model(raw_tensor([4], b"")), {MODEL}
    both = raw_tensor([4], b"\0" * 16)
    both.float_data.extend([1, 2, 3, 4])
    yield "raw data beside typed data", weights_model(both), {MODEL}
    yield "typed data short", weights_model(TensorProto(data_type=1, dims=[4], float_data=[1, 2])), {MODEL}
    yield "typed data of another type", weights_model(TensorProto(data_type=1, dims=[4], int64_data=[1] * 4)), {MODEL}
    yield "negative dim", weights_model(raw_tensor([-4], b"\0" * 16)), {MODEL}
    yield "dims that wrap to 16", weights_model(raw_tensor([2**62, 4, 4], b"")), {MODEL}
    yield "dims that wrap to 0", weights_model(raw_tensor([2**32, 2**32], b"")), {MODEL}
    yield "dim 2^40", weights_model(raw_tensor([2**40], b"\0" * 16)), {MODEL}
    yield "zero and huge dims", weights_model(raw_tensor([0, 2**62, 2**62], b"")), {MODEL}
    yield "undefined type", weights_model(raw_tensor([4], b"\0" * 16, 0)), {MODEL}
    yield "type 99", weights_model(raw_tensor([4], b"\0" * 16, 99)), {MODEL}
    yield "odd number of 4-bit integers", weights_model(raw_tensor([3], b"\0", 22)), {MODEL, UNSUPPORTED}
    yield "weights that do not broadcast", weights_model(raw_tensor([3], b"\0" * 12)), {MODEL}


def attributes():
    """Operators whose attributes or operands are out of bounds."""
    conv = "g (float[1, 4, 8, 8] x, float[4, 4, 3, 3] w) => (float[1, C, H, W] y)"
    for text in ("strides = [0, 1]", "strides = [-1, 1]", "strides = [1]", "group = 0", "group = 3",
                 "group = 4294967296", "dilations = [0, 1]", "pads = [-9, -9, -9, -9]", "pads = [1, 1]",
                 "kernel_shape = [5, 5]",
                 "strides = [4611686018427387904, 1]", 'auto_pad = "SIDEWAYS"'):
        yield f"Conv {text}", model(f"{conv} {{ y = Conv<{text}>(x, w) }}"), {MODEL, UNSUPPORTED}
    pool = "g (float[1, 4, 8, 8] x) => (float[1, 4, H, W] y)"
    for text in ("kernel_shape = [0, 0]", "kernel_shape = [-2, 2]", "kernel_shape = [9, 9]",
                 "kernel_shape = [2, 2], strides = [0, 0]"):
        yield f"MaxPool {text}", model(f"{pool} {{ y = MaxPool<{text}>(x) }}"), {MODEL, UNSUPPORTED}
    io = "g (float[2, 4] x) => (float[A, B] y)"
    for node in ("Softmax<axis = 7>(x)", "Softmax<axis = -3>(x)", "Transpose<perm = [0, 0]>(x)",
                 "Transpose<perm = [0, 9]>(x)", "Concat<axis = 5>(x, x)", "Flatten<axis = 9>(x)", "Gemm(x, x)",
                 "MatMul(x, x)",
                 "LayerNormalization<axis = 9>(x, x)", "Cast<to = 99>(x)", 'Softmax<axis = "one">(x)',
                 "Softmax<axis = 1.5>(x)"):
        yield node, model(f"{io} {{ y = {node} }}"), {MODEL, UNSUPPORTED}
    shaped = {"Reshape to the wrong count": ("Reshape", [3, 5]), "Reshape with two -1": ("Reshape", [-1, -1]),
              "Reshape to -7": ("Reshape", [-7, 8]), "Expand that does not broadcast": ("Expand", [3, 5]),
              "Tile by -1": ("Tile", [-1, 1])}
    for name, (op, values) in shaped.items():
        body = f"{{ s = Constant<value = int64[{len(values)}] {{{', '.join(map(str, values))}}}>()  y = {op}(x, s) }}"
        yield name, model(f"{io} {body}"), {MODEL, UNSUPPORTED}
    image = "g (float[1, 4, 6, 6] x, float[3] s) => (float[A, B, C, D] y)"
    for node in ("DepthToSpace<blocksize = 0>(x)", "DepthToSpace<blocksize = 4294967296>(x)",
                 "DepthToSpace<blocksize = 3>(x)", "SpaceToDepth<blocksize = 0>(x)", "SpaceToDepth<blocksize = 4>(x)",
                 "LRN<size = 0>(x)", "BatchNormalization(x, s, s, s, s)", "InstanceNormalization(x, s, s)",
                 "LpPool<kernel_shape = [2, 2], p = 0>(x)"):
        yield node, model(f"{image} {{ y = {node} }}"), {MODEL, UNSUPPORTED}
    groups = "g (float[1, 4, 6, 6] x, float[4] s) => (float[A, B, C, D] y)"
    for count in (0, 3, -1, 2**62):
        yield f"GroupNormalization of {count}", model(
            f"{groups} {{ y = GroupNormalization<num_groups = {count}>(x, s, s) }}", 21, 10), {MODEL, UNSUPPORTED}
    transposed = "g (float[1, 4, 8, 8] x, float[4, 4, 3, 3] w) => (float[A, B, C, D] y)"
    for text in ("output_padding = [9, 9]", "output_shape = [-1, 2]", "output_shape = [1099511627776, 2]",
                 "output_shape = [20, 20]", "strides = [0, 1]", "group = 3"):
        node = f"ConvTranspose<{text}>(x, w)"
        yield node, model(f"{transposed} {{ y = {node} }}"), {MODEL, UNSUPPORTED, FAILED}
    yield "Cast without a type", model(f"{io} {{ y = Cast(x) }}"), {MODEL}
    yield "Gemm with a wrong bias", model(
        "g (float[2, 4] x, float[4, 3] w, float[5] b) => (float[A, B] y) { y = Gemm(x, w, b) }"), {MODEL}
    yield "Einsum of wrong ranks", model(f'{io} {{ y = Einsum<equation = "i!->">(x) }}'), {MODEL, UNSUPPORTED}
    listed = {"Split into too many": ("y, z = Split<axis = 1>(x, a)", [3, 3]),
              "Split by a negative": ("y, z = Split<axis = 1>(x, a)", [-1, 5]),
              "Pad below nothing": ("y = Pad(x, a)", [0, -3, 0, -3]),
              "Pad that wraps": ("y = Pad(x, a)", [0, 2**62, 0, 2**62]),
              "Pad of another rank": ("y = Pad(x, a)", [1, 1]),
              "Squeeze axis 9": ("y = Squeeze(x, a)", [9]), "Squeeze of 2": ("y = Squeeze(x, a)", [0]),
              "Unsqueeze twice": ("y = Unsqueeze(x, a)", [0, 0]), "ReduceSum axis 9": ("y = ReduceSum(x, a)", [9]),
              "Slice axis 9": ("y = Slice(x, a, a, a)", [9]),
              "Slice by 0": ("z = Sub(a, a)  y = Slice(x, z, a, z, z)", [1]),
              "TopK 9": ("y, z = TopK(x, a)", [9]), "TopK -1": ("y, z = TopK(x, a)", [-1]),
              "CumSum axis 9": ("y = CumSum(x, a)", [9])}
    for name, (nodes, values) in listed.items():
        body = f"{{ a = Constant<value = int64[{len(values)}] {{{', '.join(map(str, values))}}}>()  {nodes} }}"
        yield name, model(f"{io} {body}"), {MODEL, UNSUPPORTED}
    for scale in ("0.0", "-1.0", "1.0e30", "nan", "inf"):
        yield f"Resize by {scale}", model(
            "g (float[1, 4, 6, 6] x) => (float[A, B, C, D] y) { s = Constant<value = float[4] "
            f"{{1, 1, {scale}, 2}}>()  y = Resize(x, , s) }}"), {MODEL, UNSUPPORTED, FAILED}
    for depth in (-1, 2**60):
        yield f"OneHot of depth {depth}", model(
            f"g (int64[2] x) => (float[A, B] y) {{ d = Constant<value_int = {depth}>()  v = Constant<value = float[2] "
            "{0, 1}>()  y = OneHot(x, d, v) }"), {MODEL, UNSUPPORTED, FAILED}
    scattered = "u = Constant<value = float[1, 4] {1, 2, 3, 4}>()"
    for node, index in {"ScatterElements(x, i, u)": "[1, 4] {9, 0, 0, 0}", "ScatterND(x, i, u)": "[1, 1] {9}",
                        "GatherElements(x, i)": "[1, 1] {-9}", "GatherND(x, i)": "[1, 1] {9}"}.items():
        yield f"{node} out of range", model(f"{io} {{ i = Constant<value = int64{index}>()  {scattered}  y = {node} }}"
                                            ), {FAILED, MODEL, 4, UNSUPPORTED}
    yield "ScatterND of another shape", model(
        f"{io} {{ i = Constant<value = int64[1, 3] {{0, 0, 0}}>()  {scattered}  y = ScatterND(x, i, u) }}"
    ), {MODEL, UNSUPPORTED}
    for index in (9, -5, 2**40):
        body = f"{{ i = Constant<value = int64[1] {{{index}}}>()  y = Gather(x, i) }}"
        yield f"Gather at {index}", model(f"{io} {body}"), {FAILED, MODEL, 4}


def bombs():
    """Small files that ask for more memory or time than there is."""
    codes = {FAILED, MODEL, UNSUPPORTED}

    def bomb(rank, body, opset=17):
        return model(f"g (float[1] x) => (float[{', '.join('ABC'[:rank])}] y) {{ {body} }}", opset)

    huge = "s = Constant<value = int64[2] {1048576, 1073741824}>()"
    yield "Expand to 2^50", bomb(2, f"{huge}  y = Expand(x, s)"), codes
    yield "Tile to 2^50", bomb(1, "s = Constant<value = int64[1] {1125899906842624}>()  y = Tile(x, s)"), codes
    yield "ConstantOfShape 2^50", bomb(2, f"{huge}  z = ConstantOfShape(s)  y = Add(x, z)"), codes
    wrapping = "s = Constant<value = int64[3] {4611686018427387904, 4611686018427387904, 16}>()"
    yield "ConstantOfShape that wraps", bomb(3, f"{wrapping}  z = ConstantOfShape(s)  y = Add(x, z)"), codes
    limits = "a = Constant<value_int = 0>()  b = Constant<value_int = 1152921504606846976>()"
    yield "Range to 2^60", bomb(1, f"{limits}  d = Constant<value_int = 1>()  r = Range(a, b, d)  "
                                   "f = Cast<to = 1>(r)  y = Add(x, f)"), codes
    yield "MaxPool with a pad of 2^31", model(
        "g (float[1, 4, 8, 8] x) => (float[1, 4, H, W] y) "
        "{ y = MaxPool<kernel_shape = [2, 2], pads = [2147483647, 0, 0, 0]>(x) }"), codes
    # Sizes of which the 32 bits of a library under a kernel hold nothing.
    for side in (65536, 1048576, 2**33):
        image = f"s = Constant<value = int64[4] {{1, 16, {side}, {side if side < 2**32 else 1}}}>()  i = Expand(x, s)"
        for kernel in (1, 3):
            weights = f"t = Constant<value = int64[4] {{16, 16, {kernel}, {kernel}}}>()  w = Expand(x, t)"
            pads = ", ".join("1" if kernel == 3 else "0" for _ in range(4))
            yield f"Conv {kernel}x{kernel} of {side}", bomb(
                3, f"{image}  {weights}  c = Conv<pads = [{pads}]>(i, w)  "
                   "a = Constant<value = int64[1] {3}>()  y = ReduceMean<keepdims = 0>(c, a)", 18), codes
    tall = "s = Constant<value = int64[2] {4294967296, 16}>()  m = Expand(x, s)"
    yield "MatMul of 2^32 rows", bomb(2, f"{tall}  t = Constant<value = int64[2] {{16, 32}}>()  w = Expand(x, t)  "
                                         "y = MatMul(m, w)"), codes
    chain = "  ".join(f"v{i + 1} = Concat<axis = 0>(v{i}, v{i})" for i in range(45))
    yield "Concat doubled 45 times", bomb(1, f"v0 = Relu(x)  {chain}  y = Relu(v45)"), codes


def external(folder):
    """External data that is not a plain file inside the model's folder."""
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"\x2a" * 64)
    (folder / "inside").write_bytes(b"\0" * 16)
    (folder / "symlink").symlink_to(outside / "secret")
    (folder / "parent").symlink_to(outside)
    os.link(outside / "secret", folder / "hardlink")
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()
    places = {"..": f"../{outside.name}/secret", "nested ..": f"directory/../../{outside.name}/secret",
              "absolute": str(outside / "secret"), "symlink": "symlink", "symlinked parent": "parent/secret",
              "hard link": "hardlink", "FIFO": "fifo", "directory": "directory", "missing": "nothing", "empty": "",
              "NUL": "inside\0more", "device": "/dev/zero"}
    for name, location in places.items():
        yield f"external data: {name}", weights_model(external_tensor(location=location, length=16)), {MODEL}
    ranges = {"beyond the end": {"offset": 8}, "length beyond the end": {"length": 999},
              "negative offset": {"offset": -4}, "negative length": {"length": -16},
              "offset that wraps": {"offset": 2**64 - 8}, "offset of 2^70": {"offset": 2**70},
              "length against dims": {"length": 8}, "offset no number": {"offset": "ten"}}
    for name, entries in ranges.items():
        yield f"external data: {name}", weights_model(external_tensor(location="inside", **entries)), {MODEL}
    constant = model("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }")
    constant.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=external_tensor(location=places[".."])))
    yield "external data: .. in a Constant node", constant, {MODEL}
    sparse = model("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }")
    sparse.graph.sparse_initializer.add(
        values=external_tensor(location=places[".."]), dims=[8],
        indices=numpy_helper.from_array(np.arange(4))).values.name = "w"
    yield "external data: .. in a sparse tensor", sparse, {MODEL, UNSUPPORTED}
    function = function_model({"f": ["Identity"]}, "f")
    function.functions[0].node.insert(0, helper.make_node("Constant", [], ["w"],
                                                          value=external_tensor(location=places[".."])))
    yield "external data: .. in a function", function, {MODEL}
    yield "external data: no location", weights_model(external_tensor(length=16)), {MODEL}


def files(folder, good):
    """Files that are no models; `good` is the bytes of one that is."""
    contents = {"empty": b"", "one byte": b"\x08", "text": b"This is not a model.\n" * 50, "zeros": b"\0" * 4096,
                "garbage": np.random.default_rng(0).bytes(100_000), "truncated by half": good[:len(good) // 2],
                "truncated by a byte": good[:-1], "length that lies": b"\x3a\xff\xff\xff\xff\x0f" + good[:100],
                "groups 20,000 deep": b"\x3b" * 20_000}
    for name, content in contents.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(content)
        yield name, path, {MODEL}
    yield "missing", folder / "there is none.onnx", {MODEL}
    yield "directory", folder, {MODEL}
    os.mkfifo(folder / "fifo.onnx")
    yield "FIFO", folder / "fifo.onnx", {MODEL}
    yield "device", pathlib.Path("/dev/zero"), {MODEL}


def write_all(folder, good):
    for part in (graphs, bodies, shapes_from_data, tensors, attributes, bombs, lambda: external(folder)):
        for number, (name, proto, codes) in enumerate(part()):
            path = folder / f"{getattr(part, '__name__', 'x').strip('<>')}{number}.onnx"
            path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
            yield name, path, codes
    (folder / "files").mkdir()
    yield from files(folder / "files", good)

"""Writes ONNX graphs as torch's exporter does: parameters keep their torch names, nodes are named by module path."""
import collections
import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


class Network:
    """A graph under construction. `scope` is a module path such as "/layer1/layer1.0"; methods return value names."""

    def __init__(self, name, opset=17, seed=0):
        self.name, self.opset = name, opset
        self.rng = np.random.default_rng(seed)
        self.nodes, self.inputs, self.outputs, self.initializers = [], [], [], []
        self.used = collections.Counter()

    def input(self, name, dims, dtype=FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def output(self, name, dims, dtype=FLOAT):
        self.outputs.append(helper.make_tensor_value_info(name, dtype, dims))

    def param(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, scope, *inputs, outputs=1, result=None, **attributes):
        """Adds a node; `result` names its first output, otherwise outputs are named after the node."""
        path = f"{scope}/{op}"
        count = self.used[path]
        self.used[path] += 1
        path += f"_{count}" if count else ""
        names = [f"{path}_output_{i}" for i in range(outputs)]
        names[0] = result or names[0]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=path, **attributes))
        return names[0] if outputs == 1 else names

    def tensor(self, value, dtype):
        return numpy_helper.from_array(np.array(value, dtype=dtype))

    def const(self, scope, value, dtype):
        return self.node("Constant", scope, value=self.tensor(value, dtype))

    def unsqueeze(self, scope, x, *axes):
        for axis in axes:
            x = self.node("Unsqueeze", scope, x, self.const(scope, [axis], "int64"))
        return x

    def dropout(self, scope, x, ratio):
        """Dropout in training mode, as two constant inputs say."""
        constants = self.const(scope, ratio, "float32"), self.const(scope, True, "bool")
        return self.node("Dropout", scope, x, *constants, outputs=2)[0]

    def uniform(self, shape, bound):
        return self.rng.uniform(-bound, bound, shape).astype(np.float32)

    def normal(self, shape, deviation):
        return (self.rng.standard_normal(shape) * deviation).astype(np.float32)

    def linear(self, scope, prefix, x, features_in, features_out, weight=None, bias=None, result=None):
        """y = x W^T + b for x of rank 2, as one Gemm; torch's default initialisation."""
        bound = 1 / math.sqrt(features_in)
        weight = self.uniform((features_out, features_in), bound) if weight is None else weight
        bias = self.uniform((features_out,), bound) if bias is None else bias
        w, b = self.param(f"{prefix}.weight", weight), self.param(f"{prefix}.bias", bias)
        return self.node("Gemm", scope, x, w, b, result=result, alpha=1.0, beta=1.0, transB=1)

    def projection(self, scope, prefix, x, weight, bias):
        """y = x W^T + b for x of any rank: torch's exporter writes Transpose, MatMul and Add with the bias in front."""
        w, b = self.param(f"{prefix}.weight", weight), self.param(f"{prefix}.bias", bias)
        product = self.node("MatMul", scope, x, self.node("Transpose", scope, w, perm=[1, 0]))
        return self.node("Add", scope, b, product)

    def batch_norm(self, scope, prefix, x, channels, state=None):
        """BatchNormalization in training mode, with its updated statistics as second and third output."""
        state = state or [np.full(channels, value, np.float32) for value in (1, 0, 0, 1)]
        names = [f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        params = [self.param(name, array) for name, array in zip(names, state)]
        attributes = {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 1}
        return self.node("BatchNormalization", scope, x, *params, outputs=3, **attributes)[0]

    def model(self):
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initializers)
        return helper.make_model(graph, ir_version=8, producer_name="graft-tests",
                                 opset_imports=[helper.make_opsetid("", self.opset)])

"""Networks without their kinks: a copy of a model in which every Relu and Clip is y = slope * x + offset with given
slopes and offsets, and every MaxPool takes given elements, those of one point. There it has the model's values and
gradients; elsewhere it is smooth.
"""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def limits(node, tensors):
    """What a Relu or Clip cuts off at."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    given = {a.name: a.f for a in node.attribute}
    low, high = ([*node.input[1:], "", ""])[:2]
    return (float(tensors[low]) if low else given.get("min", -np.inf),
            float(tensors[high]) if high else given.get("max", np.inf))


def is_kinked(node):
    return node.op_type in ("Relu", "Clip", "MaxPool")


def free_value(name, dtype=TensorProto.FLOAT):
    """A declared value of any shape."""
    return helper.make_tensor_value_info(name, dtype, None)


def traced(model):
    """A copy that also gives, as outputs, what its kinks decide: results of Relu and Clip, indices of MaxPool."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    known = {o.name for o in copy.graph.output}
    for node in filter(is_kinked, copy.graph.node):
        if node.op_type == "MaxPool":
            del node.output[1:]
            node.output.append(f"taken:{node.output[0]}")
            copy.graph.output.append(free_value(node.output[1], TensorProto.INT64))
        elif node.output[0] not in known:
            copy.graph.output.append(free_value(node.output[0]))
    return copy


def pinned(model):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = [helper.make_node("Constant", [], ["pinned:flat"], value=numpy_helper.from_array(np.array([-1])))]
    for node in copy.graph.node:
        y = node.output[0]
        if node.op_type == "MaxPool":
            copy.graph.input.append(free_value(f"taken:{y}", TensorProto.INT64))
            nodes += [helper.make_node("Reshape", [node.input[0], "pinned:flat"], [f"flat:{y}"]),
                      helper.make_node("Gather", [f"flat:{y}", f"taken:{y}"], [y])]
        elif is_kinked(node):
            copy.graph.input.extend(free_value(f"{part}:{y}") for part in ("slope", "offset"))
            nodes += [helper.make_node("Mul", [node.input[0], f"slope:{y}"], [f"scaled:{y}"]),
                      helper.make_node("Add", [f"scaled:{y}", f"offset:{y}"], [y])]
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def pattern(model, results, tensors):
    """The further inputs of a pinned model, from the outputs of a traced one."""
    inputs = {}
    for node in filter(is_kinked, model.graph.node):
        name = node.output[0]
        if node.op_type == "MaxPool":
            inputs[f"taken:{name}"] = results[f"taken:{name}"]
            continue
        y, (low, high) = results[name], limits(node, tensors)
        inputs[f"slope:{name}"] = ((y > low) & (y < high)).astype(np.float32)
        inputs[f"offset:{name}"] = sum(np.where(cut, limit, 0) for cut, limit in [(y <= low, low), (y >= high, high)]
                                       if np.isfinite(limit)).astype(np.float32)
    return inputs

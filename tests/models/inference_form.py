"""Turns a graph exported in training mode into inference form, which onnxruntime runs: inference_form.py IN OUT."""
import sys

import onnx


def inference_form(model):
    """A copy with BatchNormalization on its running statistics and Dropout replaced by Identity."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type == "Dropout":
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
    return model


if __name__ == "__main__":
    onnx.save(inference_form(onnx.load(sys.argv[1])), sys.argv[2])

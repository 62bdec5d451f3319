"""Answers models with the onnx reference implementation, or onnxruntime where that fails. Long-lived, over a pipe.

Request: which oracle (u64: 0 reference then onnxruntime, 1 onnxruntime), model, number of inputs (u64), TensorProtos.
Answer:  status (u64: 0 well), number of blobs (u64), then TensorProtos; or one blob of text.
A blob is its length (u64, little-endian) and its bytes.
"""
import os
import struct
import sys

import numpy
import onnx
from onnx import numpy_helper

RUNTIME_OPSET = 26  # the newest that onnxruntime 1.31 accepts; the operators tested do not differ from our internal opset

pipe_in = os.fdopen(os.dup(0), "rb")
pipe_out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what libraries print must not reach the pipe
numpy.seterr(all="ignore")


def read_number():
    head = pipe_in.read(8)
    if len(head) < 8:
        sys.exit(0)
    return struct.unpack("<Q", head)[0]


def read_blob():
    return pipe_in.read(read_number())


def write_number(value):
    pipe_out.write(struct.pack("<Q", value))


def write_blob(blob):
    write_number(len(blob))
    pipe_out.write(blob)


def run_reference(model, feeds):
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model).run(None, feeds)


def run_onnxruntime(model, feeds):
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = min(opset.version, RUNTIME_OPSET)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def answer(which, model, feeds):
    if which == 1:
        return run_onnxruntime(model, feeds)
    try:
        return run_reference(model, feeds)
    except Exception as reason:  # any gap of the reference: a missing operator, dtype or attribute
        try:
            return run_onnxruntime(model, feeds)
        except Exception as second:
            raise RuntimeError(f"reference: {reason}; onnxruntime: {second}") from second


def to_bytes(result):
    # ascontiguousarray makes a scalar an array of one element.
    return numpy_helper.from_array(numpy.ascontiguousarray(result).reshape(numpy.shape(result))).SerializeToString()


while True:
    which = read_number()
    model = onnx.load_model_from_string(read_blob())
    tensors = [onnx.TensorProto.FromString(read_blob()) for _ in range(read_number())]
    try:
        results = answer(which, model, {t.name: numpy_helper.to_array(t) for t in tensors})
        status, blobs = 0, [to_bytes(r) for r in results]
    except Exception as error:
        status, blobs = 1, [str(error).encode()]
    write_number(status)
    write_number(len(blobs))
    for blob in blobs:
        write_blob(blob)
    pipe_out.flush()

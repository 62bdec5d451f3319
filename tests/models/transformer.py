"""BERT's layers as torch's exporter spells them: shapes from Shape ops, GELU through Erf, masks by a large negative.

Two spellings, as older and newer versions of transformers give: `modern` scales scores by Mul, gathers the mask by
index arithmetic, and (exported in training mode) keeps Dropout nodes, here with ratio 0.
"""
import math

import numpy as np

from network import BOOL, FLOAT, INT64

LOWEST = np.finfo(np.float32).min


def dim(net, scope, x, axis):
    """One dimension of x as a scalar."""
    return net.node("Gather", scope, net.node("Shape", scope, x), net.const(scope, axis, "int64"), axis=0)


def concat_shape(net, scope, *dims):
    """A shape of scalars (value names) and integers."""
    scalars = [net.const(scope, d, "int64") if isinstance(d, int) else d for d in dims]
    return net.node("Concat", scope, *(net.unsqueeze(scope, scalar, 0) for scalar in scalars), axis=0)


def expand(net, scope, x, *dims):
    """torch's expand, where -1 keeps a dimension."""
    shape = net.node("Reshape", scope, concat_shape(net, scope, *dims), net.const(scope, [-1], "int64"), allowzero=0)
    ones = net.node("ConstantOfShape", scope, net.node("Shape", scope, shape), value=net.tensor([1], "int64"))
    kept = net.node("Equal", scope, shape, net.node("Mul", scope, ones, net.const(scope, -1, "int64")))
    return net.node("Expand", scope, x, net.node("Where", scope, kept, ones, shape))


def layer_norm(net, scope, prefix, x, weights, epsilon):
    w, b = (net.param(f"{prefix}.{part}", weights[f"{prefix}.{part}"]) for part in ("weight", "bias"))
    return net.node("LayerNormalization", scope, x, w, b, axis=-1, epsilon=epsilon)


def gelu(net, scope, x):
    """x * (1 + erf(x / sqrt 2)) * 0.5"""
    erf = net.node("Erf", scope, net.node("Div", scope, x, net.const(scope, math.sqrt(2), "float32")))
    one_plus = net.node("Add", scope, erf, net.const(scope, 1.0, "float32"))
    return net.node("Mul", scope, net.node("Mul", scope, x, one_plus), net.const(scope, 0.5, "float32"))


def project(net, scope, prefix, x, weights):
    return net.projection(scope, prefix, x, weights[f"{prefix}.weight"], weights[f"{prefix}.bias"])


def attention(net, scope, prefix, x, mask, weights, heads, modern):
    """softmax(q k^T / sqrt(size) + mask) v over `heads`; mask, if any, is additive and broadcasts over heads."""
    size = weights[f"{prefix}.query.weight"].shape[0] // heads
    batch, length = dim(net, scope, x, 0), dim(net, scope, x, 1)

    def split(part, perm):
        y = project(net, f"{scope}/{part}", f"{prefix}.{part}", x, weights)
        y = net.node("Reshape", scope, y, concat_shape(net, scope, batch, length, -1, size), allowzero=0)
        return net.node("Transpose", scope, y, perm=perm)

    q, k, v = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1]), split("value", [0, 2, 1, 3])
    scores = net.node("MatMul", scope, q, k)
    if modern:
        scores = net.node("Mul", scope, scores, net.const(scope, 1 / math.sqrt(size), "float32"))
    else:
        scores = net.node("Div", scope, scores, net.const(scope, math.sqrt(size), "float32"))
    if mask is not None:
        scores = net.node("Add", scope, scores, mask)
    weight = net.node("Softmax", scope, scores, axis=-1)
    weight = net.dropout(scope, weight, 0.0) if modern else weight
    context = net.node("Transpose", scope, net.node("MatMul", scope, weight, v), perm=[0, 2, 1, 3])
    return net.node("Reshape", scope, context, concat_shape(net, scope, batch, length, heads * size), allowzero=0)


def residual_norm(net, scope, prefix, y, x, weights, epsilon, modern):
    y = net.dropout(f"{scope}/dropout", y, 0.0) if modern else y
    return layer_norm(net, f"{scope}/LayerNorm", f"{prefix}.LayerNorm", net.node("Add", scope, y, x), weights, epsilon)


def encoder_layer(net, scope, prefix, x, mask, weights, heads, epsilon, modern=False):
    """One post-norm block with BERT's parameter names under `prefix`."""
    y = attention(net, f"{scope}/attention/self", f"{prefix}.attention.self", x, mask, weights, heads, modern)
    out, out_prefix = f"{scope}/attention/output", f"{prefix}.attention.output"
    y = project(net, f"{out}/dense", f"{out_prefix}.dense", y, weights)
    y = residual_norm(net, out, out_prefix, y, x, weights, epsilon, modern)
    h = project(net, f"{scope}/intermediate/dense", f"{prefix}.intermediate.dense", y, weights)
    h = gelu(net, f"{scope}/intermediate/intermediate_act_fn", h)
    h = project(net, f"{scope}/output/dense", f"{prefix}.output.dense", h, weights)
    return residual_norm(net, f"{scope}/output", f"{prefix}.output", h, y, weights, epsilon, modern)


def subtracted_mask(net, scope, mask):
    """(1 - mask) * lowest, shape (batch, 1, 1, sequence), from an int64 mask (batch, sequence)"""
    mask = net.node("Cast", scope, net.unsqueeze(scope, mask, 1, 2), to=FLOAT)
    mask = net.node("Sub", scope, net.const(scope, 1.0, "float32"), mask)
    return net.node("Mul", scope, mask, net.const(scope, LOWEST, "float32"))


def gathered_mask(net, scope, mask, x):
    """where(mask[batch, key], 0, lowest), shape (batch, 1, sequence, sequence), by flat index batch * sequence + key"""
    mask = net.node("Cast", scope, mask, to=BOOL)
    batch, queries, keys = dim(net, scope, x, 0), dim(net, scope, x, 1), dim(net, scope, mask, 1)

    def indices(count, *axes):
        bounds = net.const(scope, 0, "int64"), net.node("Cast", scope, count, to=INT64), net.const(scope, 1, "int64")
        return net.unsqueeze(scope, net.node("Range", scope, *bounds), *axes)

    rows, columns, query = indices(batch, 1, 2, 3), indices(keys, 0, 1, 2), indices(queries, 0, 1, 3)
    everywhere = net.node("ConstantOfShape", scope, net.const(scope, [], "int64"), value=net.tensor([True], "bool"))
    visible = net.node("GreaterOrEqual", scope, query, net.const(scope, 0, "int64"))
    everywhere = net.node("And", scope, everywhere, visible)
    width = net.node("Gather", scope, net.node("Shape", scope, mask), net.const(scope, [1], "int64"), axis=0)
    flat = net.node("Flatten", scope, mask, axis=0)
    flat = net.node("Reshape", scope, flat, net.const(scope, [-1], "int64"), allowzero=0)
    index = net.node("Add", scope, columns, net.node("Mul", scope, rows, width))
    seen = net.node("And", scope, everywhere, net.node("Gather", scope, flat, index, axis=0))
    seen = expand(net, scope, seen, batch, -1, queries, keys)
    return net.node("Where", scope, seen, net.const(scope, 0.0, "float32"), net.const(scope, LOWEST, "float32"))

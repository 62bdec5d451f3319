"""The MLP of the benchmarks, and the three networks of tests/recordings with the recorded initial parameters."""
import numpy as np

from network import Network
from transformer import encoder_layer


def mlp():
    net = Network("main_graph", seed=1)
    x = net.input("x", ["N", 784])
    net.output("logits", ["N", 10])
    for layer, (features_in, features_out) in [(0, (784, 512)), (2, (512, 512))]:
        x = net.linear(f"/{layer}", str(layer), x, features_in, features_out)
        x = net.node("Relu", f"/{layer + 1}", x)
    net.linear("/4", "4", x, 512, 10, result="logits")
    return net.model()


def initial(recording):
    with np.load(recording) as arrays:
        return {name.removeprefix("init/"): arrays[name] for name in arrays.files if name.startswith("init/")}


def dense(net, scope, prefix, x, weights, result=None):
    weight, bias = weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
    return net.linear(scope, prefix, x, weight.shape[1], weight.shape[0], weight, bias, result)


def small_mlp(recording):
    weights, net = initial(recording), Network("main_graph")
    x = net.input("x", ["N", 12])
    net.output("logits", ["N", 4])
    x = net.node("Relu", "/1", dense(net, "/0", "0", x, weights))
    dense(net, "/2", "2", x, weights, "logits")
    return net.model()


def conv_norm_relu(net, index, x, weights):
    names = [f"conv{index}.{part}" for part in ("weight", "bias") if f"conv{index}.{part}" in weights]
    x = net.node("Conv", f"/conv{index}", x, *(net.param(name, weights[name]) for name in names), kernel_shape=[3, 3],
                 strides=[1, 1], pads=[1] * 4, dilations=[1, 1], group=1)
    prefix = f"bn{index}"
    state = [weights[f"{prefix}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    return net.node("Relu", "", net.batch_norm(f"/{prefix}", prefix, x, len(state[0]), state))


def small_cnn(recording):
    weights, net = initial(recording), Network("main_graph")
    x = net.input("x", ["N", 1, 8, 8])
    net.output("logits", ["N", 4])
    x = net.node("MaxPool", "", conv_norm_relu(net, 1, x, weights), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=0)
    x = net.node("ReduceMean", "", conv_norm_relu(net, 2, x, weights), axes=[2, 3], keepdims=0)
    dense(net, "/fc", "fc", x, weights, "logits")
    return net.model()


def block(recording):
    weights, net = initial(recording), Network("main_graph")
    x = net.input("x", ["N", 6, 8])
    net.output("logits", ["N", 4])
    x = encoder_layer(net, "/layer", "layer", x, None, weights, heads=2, epsilon=1e-5)
    dense(net, "/classifier", "classifier", net.node("ReduceMean", "", x, axes=[1], keepdims=0), weights, "logits")
    return net.model()

"""ResNet-18, ResNet-50 and MobileNetV2 in the structure of torchvision, exported in training mode, randomly initialised."""
import math

from network import Network


def conv(net, scope, prefix, x, channels_in, channels_out, kernel, stride=1, groups=1):
    """A convolution without bias, He-initialised over its fan-out."""
    weight = net.normal((channels_out, channels_in // groups, kernel, kernel),
                        math.sqrt(2 / (kernel * kernel * channels_out)))
    return net.node("Conv", scope, x, net.param(f"{prefix}.weight", weight), kernel_shape=[kernel] * 2,
                    strides=[stride] * 2, pads=[kernel // 2] * 4, dilations=[1, 1], group=groups)


def residual_block(net, block, x, channels_in, channels_out, stride):
    layer = block.split(".")[0]
    scope = f"/{layer}/{block}"
    y = conv(net, f"{scope}/conv1", f"{block}.conv1", x, channels_in, channels_out, 3, stride)
    y = net.batch_norm(f"{scope}/bn1", f"{block}.bn1", y, channels_out)
    y = net.node("Relu", f"{scope}/relu", y)
    y = conv(net, f"{scope}/conv2", f"{block}.conv2", y, channels_out, channels_out, 3)
    y = net.batch_norm(f"{scope}/bn2", f"{block}.bn2", y, channels_out)
    return add_shortcut(net, block, scope, x, y, channels_in, channels_out, stride)


def bottleneck(net, block, x, channels_in, channels_out, stride):
    scope, hidden = f"/{block.split('.')[0]}/{block}", channels_out // 4
    y, sizes = x, [(channels_in, hidden, 1, 1), (hidden, hidden, 3, stride), (hidden, channels_out, 1, 1)]
    for index, (before, after, kernel, step) in enumerate(sizes, start=1):
        y = conv(net, f"{scope}/conv{index}", f"{block}.conv{index}", y, before, after, kernel, step)
        y = net.batch_norm(f"{scope}/bn{index}", f"{block}.bn{index}", y, after)
        y = net.node("Relu", f"{scope}/relu", y) if index < len(sizes) else y
    return add_shortcut(net, block, scope, x, y, channels_in, channels_out, stride)


def add_shortcut(net, block, scope, x, y, channels_in, channels_out, stride):
    if stride != 1 or channels_in != channels_out:
        down = f"{scope}/downsample/downsample"
        x = conv(net, f"{down}.0", f"{block}.downsample.0", x, channels_in, channels_out, 1, stride)
        x = net.batch_norm(f"{down}.1", f"{block}.downsample.1", x, channels_out)
    return net.node("Relu", f"{scope}/relu_1", net.node("Add", scope, y, x))


def resnet(seed, block, expansion, repeats, classes):
    net = Network("main_graph", seed=seed)
    x = net.input("x", ["N", 3, 224, 224])
    net.output("logits", ["N", classes])
    x = conv(net, "/conv1", "conv1", x, 3, 64, 7, stride=2)
    x = net.node("Relu", "/relu", net.batch_norm("/bn1", "bn1", x, 64))
    x = net.node("MaxPool", "/maxpool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, dilations=[1, 1],
                 ceil_mode=0)
    channels_in = 64
    for stage, count in enumerate(repeats, start=1):
        channels = 32 * 2**stage * expansion
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(net, f"layer{stage}.{index}", x, channels_in, channels, stride)
            channels_in = channels
    x = net.node("Flatten", "", net.node("GlobalAveragePool", "/avgpool", x), axis=1)
    net.linear("/fc", "fc", x, channels_in, classes, result="logits")
    return net.model()


def resnet18(classes=10):
    return resnet(18, residual_block, 1, [2, 2, 2, 2], classes)


def resnet50(classes=10):
    return resnet(50, bottleneck, 4, [3, 4, 6, 3], classes)


def relu6(net, scope, x):
    return net.node("Clip", scope, x, net.const(scope, 0.0, "float32"), net.const(scope, 6.0, "float32"))


def conv_norm_relu6(net, scope, prefix, x, channels_in, channels_out, kernel, stride=1, groups=1):
    scope = f"{scope}/{prefix}"
    x = conv(net, f"{scope}.0", f"{prefix}.0", x, channels_in, channels_out, kernel, stride, groups)
    return relu6(net, f"{scope}.2", net.batch_norm(f"{scope}.1", f"{prefix}.1", x, channels_out))


def inverted_residual(net, block, x, channels_in, channels_out, stride, expansion):
    scope, hidden = f"/features/{block}/conv", channels_in * expansion
    y, step = x, 0
    if expansion != 1:
        y = conv_norm_relu6(net, scope, f"{block}.conv.0", y, channels_in, hidden, 1)
        step = 1
    y = conv_norm_relu6(net, scope, f"{block}.conv.{step}", y, hidden, hidden, 3, stride, groups=hidden)
    y = conv(net, f"{scope}/{block}.conv.{step + 1}", f"{block}.conv.{step + 1}", y, hidden, channels_out, 1)
    y = net.batch_norm(f"{scope}/{block}.conv.{step + 2}", f"{block}.conv.{step + 2}", y, channels_out)
    return net.node("Add", f"/features/{block}", x, y) if stride == 1 and channels_in == channels_out else y


def mobilenet_v2(classes=10):
    net = Network("main_graph", seed=2)
    x = net.input("x", ["N", 3, 224, 224])
    net.output("logits", ["N", classes])
    x = conv_norm_relu6(net, "/features/features.0", "features.0", x, 3, 32, 3, stride=2)
    channels_in, index = 32, 1
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, channels, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            x = inverted_residual(net, f"features.{index}", x, channels_in, channels, stride, expansion)
            channels_in, index = channels, index + 1
    x = conv_norm_relu6(net, f"/features/features.{index}", f"features.{index}", x, channels_in, 1280, 1)
    x = net.node("Flatten", "", net.node("GlobalAveragePool", "", x), axis=1)
    x = net.dropout("/classifier/classifier.0", x, 0.2)
    net.linear("/classifier/classifier.1", "classifier.1", x, 1280, classes, weight=net.normal((classes, 1280), 0.01),
               bias=net.normal(classes, 0), result="logits")
    return net.model()

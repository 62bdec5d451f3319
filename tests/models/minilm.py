"""all-MiniLM-L6-v2 with its pretrained weights, and a randomly initialised 4-class BERT classifier of the same size."""
import numpy as np

import safetensors
from network import INT64, Network
from transformer import dim, encoder_layer, expand, gathered_mask, layer_norm, subtracted_mask

LAYERS, HEADS, WIDTH, INNER, VOCABULARY, POSITIONS, EPSILON = 6, 12, 384, 1536, 30522, 512, 1e-12


def table(net, scope, prefix, ids, weights):
    return net.node("Gather", scope, net.param(f"{prefix}.weight", weights[f"{prefix}.weight"]), ids, axis=0)


def embeddings(net, scope, prefix, ids, types, weights):
    """Sum of word, token-type and position embeddings, normalised. Without `types`, a buffer of zeros is expanded."""
    buffer = net.const(scope, np.arange(POSITIONS)[None], "int64")
    length = net.unsqueeze(scope, dim(net, scope, ids, 1), 0)
    bounds = net.const(scope, [0], "int64"), length, net.const(scope, [1], "int64"), net.const(scope, [1], "int64")
    positions = net.node("Slice", scope, buffer, *bounds)
    if types is None:
        zeros = net.const(scope, np.zeros((1, POSITIONS)), "int64")
        zeros = expand(net, scope, zeros, dim(net, scope, positions, 0), -1)
        zeros = net.node("GatherElements", scope, zeros, positions, axis=1)
        types = expand(net, scope, zeros, dim(net, scope, ids, 0), dim(net, scope, ids, 1))
    words, kinds, places = (
        table(net, f"{scope}/{part}", f"{prefix}.{part}", index, weights) for part, index in
        [("word_embeddings", ids), ("token_type_embeddings", types), ("position_embeddings", positions)])
    x = net.node("Add", scope, net.node("Add", scope, words, kinds), places)
    return layer_norm(net, f"{scope}/LayerNorm", f"{prefix}.LayerNorm", x, weights, EPSILON)


def encoder(net, root, prefix, x, mask, weights, modern):
    for i in range(LAYERS):
        scope, layer = f"{root}/encoder/layer.{i}", f"{prefix}encoder.layer.{i}"
        x = encoder_layer(net, scope, layer, x, mask, weights, HEADS, EPSILON, modern)
    return x


def minilm(safetensors_path):
    net = Network("main_graph")
    ids, mask, types = (net.input(name, ["batch", "sequence"], INT64) for name in
                        ("input_ids", "attention_mask", "token_type_ids"))
    net.output("last_hidden_state", ["batch", "sequence", WIDTH])
    weights = safetensors.load(safetensors_path)
    x = embeddings(net, "/embeddings", "embeddings", ids, types, weights)
    encoder(net, "", "", x, subtracted_mask(net, "", mask), weights, modern=False)
    net.nodes[-1].output[0] = "last_hidden_state"
    return net.model()


def random_weights(net, prefix):
    """BERT's initialisation: matrices N(0, 0.02), biases 0, LayerNorm 1 and 0; the padding token's row is 0."""
    weights = {}

    def norm(name):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def dense(name, rows, columns):
        weights[f"{name}.weight"] = net.normal((rows, columns), 0.02)
        weights[f"{name}.bias"] = np.zeros(rows, np.float32)

    for name, rows in [("word", VOCABULARY), ("position", POSITIONS), ("token_type", 2)]:
        weights[f"{prefix}embeddings.{name}_embeddings.weight"] = net.normal((rows, WIDTH), 0.02)
    weights[f"{prefix}embeddings.word_embeddings.weight"][0] = 0
    norm(f"{prefix}embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"{prefix}encoder.layer.{i}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            dense(f"{layer}.{part}", WIDTH, WIDTH)
        dense(f"{layer}.intermediate.dense", INNER, WIDTH)
        dense(f"{layer}.output.dense", WIDTH, INNER)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    dense(f"{prefix}pooler.dense", WIDTH, WIDTH)
    return weights


def minilm_classifier(classes=4):
    net = Network("main_graph", seed=6)
    prefix = "m.bert."
    weights = random_weights(net, prefix)
    ids, mask = (net.input(name, ["N", "S"], INT64) for name in ("ids", "mask"))
    net.output("logits", ["N", classes])
    x = embeddings(net, "/m/bert/embeddings", f"{prefix}embeddings", ids, None, weights)
    x = net.dropout("/m/bert/embeddings/dropout", x, 0.0)
    x = encoder(net, "/m/bert", prefix, x, gathered_mask(net, "/m/bert", mask, x), weights, modern=True)
    x = net.node("Gather", "/m/bert/pooler", x, net.const("/m/bert/pooler", 0, "int64"), axis=1)
    x = net.linear("/m/bert/pooler/dense", f"{prefix}pooler.dense", x, WIDTH, WIDTH,
                   *(weights[f"{prefix}pooler.dense.{part}"] for part in ("weight", "bias")))
    x = net.dropout("/m/dropout", net.node("Tanh", "/m/bert/pooler/activation", x), 0.0)
    net.linear("/m/classifier", "m.classifier", x, WIDTH, classes, net.normal((classes, WIDTH), 0.02),
               np.zeros(classes, np.float32), result="logits")
    return net.model()

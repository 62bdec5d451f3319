"""The workloads as PyTorch modules."""
import torch
import torchvision
import transformers

from workloads import MODELS


class Encoder(torch.nn.Module):
    """A sentence encoder of MiniLM's size with a classifier; without dropout, which would be random work."""

    def __init__(self, vocabulary, classes):
        super().__init__()
        config = transformers.BertConfig(vocab_size=vocabulary, hidden_size=384, num_hidden_layers=6,
                                         num_attention_heads=12, intermediate_size=4 * 384, num_labels=classes,
                                         hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        config._attn_implementation = "eager"
        self.network = transformers.BertForSequenceClassification(config)

    def forward(self, ids, mask):
        return self.network(input_ids=ids, attention_mask=mask).logits


def perceptron(classes):
    widths, layers = [784, 512, 512, classes], []
    for width, following in zip(widths, widths[1:]):
        layers += [torch.nn.Linear(width, following), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def build(name):
    torch.manual_seed(7)
    model = MODELS[name]
    if name == "mlp":
        network = perceptron(model["classes"])
    elif name == "minilm":
        network = Encoder(model["vocabulary"], model["classes"])
    else:
        network = getattr(torchvision.models, name)(num_classes=model["classes"])
    return network.train()

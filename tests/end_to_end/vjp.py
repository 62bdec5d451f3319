"""Checks `graft run --vjp` on a whole model: vjp.py GRAFT MODELS_DIR NAME [--directions N] [--batch N] [--mode MODE].

Float64 against directional central differences, float32 against float64. For the differences the parameters become
inputs of a copy of the model, so that they can be moved by less than float32 resolves: a network of a million
rectifiers is smooth over such steps only.
"""
import argparse
import pathlib

import numpy as np
import onnx

from support import Checks, Graft, disagreements, exported_for_training, float_tensors, make_inputs

TOLERANCE, TOLERANCE32 = 1e-6, 1e-4
STEPS = [1e-5, 1e-6, 1e-7, 2e-8]  # relative; smaller where a kink is crossed
REDRAWS = 3


def parameters_as_inputs(model, names):
    """A copy of the model in which the named tensors are inputs."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer if t.name in names}
    constants = [n for n in graph.node if n.op_type == "Constant" and n.output[0] in names]
    tensors |= {n.output[0]: onnx.helper.get_node_attr_value(n, "value") for n in constants}
    declared = {v.name for v in graph.input}
    for name, tensor in tensors.items():
        if name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    for part, kept in [(graph.initializer, [t for t in graph.initializer if t.name not in names]),
                       (graph.node, [n for n in graph.node if n not in constants])]:
        del part[:]
        part.extend(kept)
    return model


class Directions:
    """Random directions: the first moves everything, each further one a group of tensors, together all of them."""

    def __init__(self, point, gradients, count, rng):
        self.point, self.gradients, self.rng = point, gradients, rng
        self.scale = {name: max(float(np.sqrt(np.mean(np.square(a)))), 1e-3) for name, a in point.items()}
        names = list(rng.permutation(sorted(point)))
        self.groups = [names] + [names[i::count - 1] for i in range(count - 1) if names[i::count - 1]]

    def draw(self, group):
        return {name: self.rng.standard_normal(self.point[name].shape) * self.scale[name] for name in group}

    def expected(self, group):
        """The standard deviation of the derivative over random directions of a group."""
        return np.sqrt(sum(np.square(np.linalg.norm(self.gradients[n]) * self.scale[n]) for n in group))

    def along(self, direction):
        return sum(float(np.vdot(self.gradients[name], d)) for name, d in direction.items())


def central_difference(function, point, direction, step):
    ahead, behind = ({name: point[name] + s * d for name, d in direction.items()} for s in (step, -step))
    return (function(point | ahead) - function(point | behind)) / (2 * step)


def compare(function, directions, group, total):
    """(passed, text). A difference that depends on the step crosses a kink: the direction is drawn again."""
    for _ in range(REDRAWS):
        direction = directions.draw(group)
        expected = directions.along(direction)
        scale = max(abs(expected), directions.expected(group), 1e-3 * total)
        differences = []
        for step in STEPS:
            differences.append(central_difference(function, directions.point, direction, step))
            error = abs(differences[-1] - expected) / scale
            if error <= TOLERANCE:
                return True, f"{error:.1e} at step {step:.0e}"
        if max(abs(a - b) for a, b in zip(differences, differences[1:])) < 10 * TOLERANCE * scale:
            break
    return False, f"derivative {expected:.10g}, differences {differences}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("graft")
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("--directions", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--mode", help="train where the model was exported for training, else infer")
    args = parser.parse_args()

    graft, checks, rng = Graft(args.graft), Checks(), np.random.default_rng(1)
    path = args.models / f"{args.name}.onnx"
    model = onnx.load(path)
    mode = args.mode or ("train" if exported_for_training(model) else "infer")
    inputs = make_inputs(args.name, model, args.batch)
    shapes = {o.name: graft.run(path, inputs, mode=mode)[o.name].shape for o in model.graph.output}
    cotangents = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    single = graft.run(path, inputs, cotangents, mode=mode)
    double = graft.run(path, inputs, cotangents, double=True, mode=mode)

    gradients = {name.removeprefix("grad:"): a for name, a in double.items() if name.startswith("grad:")}
    tensors = float_tensors(model)
    statistics = {name for n in model.graph.node if n.op_type == "BatchNormalization" for name in n.input[3:5]}
    weighted = ("Conv", "Gemm", "BatchNormalization", "LayerNormalization")
    weights = {name for n in model.graph.node if n.op_type in weighted for name in n.input[1:3] if name in tensors}
    float_inputs = {name for name, a in inputs.items() if a.dtype == np.float32}
    missing = (weights | float_inputs) - set(gradients)
    checks.expect(not missing, f"{len(gradients)} gradients, of all weights and float inputs {sorted(missing) or ''}")
    checks.expect(all(np.isfinite(a).all() for a in gradients.values()), "gradients are finite")
    pairs = {name: single[f"grad:{name}"] for name in gradients}
    wrong, worst = disagreements(pairs, gradients, TOLERANCE32)
    checks.expect(not wrong, f"float32 gradients within {worst:.1e} of float64 {wrong or ''}")

    point = {name: (tensors | inputs)[name].astype(np.float64) for name in gradients if name not in statistics}
    copy = graft.folder / "parameters_as_inputs.onnx"
    onnx.save(parameters_as_inputs(model, set(point) - set(inputs)), copy)

    def function(at):
        outputs = graft.run(copy, inputs | at, double=True, mode=mode)
        return sum(float(np.vdot(cotangents[name].astype(np.float64), outputs[name])) for name in shapes)

    directions = Directions(point, gradients, args.directions, rng)
    total = directions.expected(point)
    for number, group in enumerate(directions.groups):
        passed, text = compare(function, directions, group, total)
        checks.expect(passed, f"direction {number} over {len(group)} tensors: {text}")
        if not passed:
            print("      tensors:", ", ".join(group[:8]), flush=True)
    checks.finish()


main()

"""Checks `graft run --vjp` on a whole model: vjp.py GRAFT MODELS_DIR NAME [--directions N] [--batch N] [--mode MODE].

Float64 against directional central differences, float32 against float64. For the differences the parameters become
inputs of a copy of the model, so that they can be moved by less than float32 resolves. A network of ten million
rectifiers has kinks everywhere: where float32 lies on the other side of one, other inputs are drawn until it does not;
where a difference crosses one, which all do there, a copy without kinks (kinks.py) decides.
"""
import argparse
import pathlib

import numpy as np
import onnx

import kinks
from support import Checks, Graft, disagreements, exported_for_training, float_tensors, make_inputs

TOLERANCE, TOLERANCE32 = 1e-6, 1e-4
DRAWS = 200
STEPS = [1e-5, 1e-6, 1e-7, 2e-8]  # relative; smaller where a kink is crossed


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


def compare(function, directions, direction, total):
    """(passed, text)."""
    expected = directions.along(direction)
    scale = max(abs(expected), directions.expected(direction), 1e-3 * total)
    differences = []
    for step in STEPS:
        differences.append(central_difference(function, directions.point, direction, step))
        error = abs(differences[-1] - expected) / scale
        if error <= TOLERANCE:
            return True, f"{error:.1e} at step {step:.0e}"
    return False, f"derivative {expected:.10g}, differences {differences}"


def saturation(output):
    """What rounding costs the gradient of a softmax, relatively: the class of probability p near 1 has a derivative of
    p (1 - p), of whose second factor float32 loses 2^-24 / (1 - p) with each rounding of p, dy p and their sum."""
    output = np.asarray(output, np.float64)
    if output.ndim < 2 or output.min() < 0 or not np.allclose(output.sum(-1), 1, atol=1e-5):
        return 0.0
    return 4 * 2.0 ** -24 / max(1 - output.max(), 2.0 ** -24)


class Case:
    """A model at one point: its gradients, and its value elsewhere."""

    def __init__(self, graft, path, inputs, mode):
        self.graft, self.inputs, self.mode = graft, inputs, mode
        self.model = onnx.load(path)
        self.tensors = float_tensors(self.model)
        outputs = graft.run(path, inputs, mode=mode)
        self.tolerance32 = TOLERANCE32 + max(map(saturation, outputs.values()))
        rng = np.random.default_rng(1)
        self.cotangents = {o.name: rng.standard_normal(outputs[o.name].shape).astype(np.float32)
                           for o in self.model.graph.output}
        self.files = {"model": path}

    def file(self, name, make):
        if name not in self.files:
            self.files[name] = self.graft.folder / f"{name}.onnx"
            onnx.save(make(), self.files[name])
        return self.files[name]

    def gradients(self, double, pattern=None):
        """By name; of the copy without kinks where a pattern is given."""
        path = self.file("pinned", lambda: kinks.pinned(self.model)) if pattern else self.files["model"]
        arrays = self.graft.run(path, self.inputs | (pattern or {}), self.cotangents, double, self.mode)
        return {name.removeprefix("grad:"): a for name, a in arrays.items()
                if name.startswith("grad:") and name.removeprefix("grad:") not in (pattern or {})}

    def pattern(self):
        """What all kinks decide at the point."""
        path = self.file("traced", lambda: kinks.traced(self.model))
        results = self.graft.run(path, self.inputs, double=True, mode=self.mode)
        return kinks.pattern(self.model, results, self.tensors)

    def function(self, parameters, pattern=None):
        """sum(cotangent * output) of inputs and parameters."""
        name = "pinned_of_parameters" if pattern else "of_parameters"
        path = self.file(name, lambda: parameters_as_inputs(kinks.pinned(self.model) if pattern else self.model,
                                                            parameters))

        def value(at):
            outputs = self.graft.run(path, self.inputs | (pattern or {}) | at, double=True, mode=self.mode)
            return sum(float(np.vdot(ct.astype(np.float64), outputs[key])) for key, ct in self.cotangents.items())
        return value


def check_float32(draw, checks):
    """Compares at the first drawn point at which float32 takes float64's side of every kink: a wrong rule is wrong at all
    of them. Networks without kinks have one draw."""
    for seed in range(DRAWS):
        case = draw(seed)
        wrong, worst = disagreements(case.gradients(double=False), case.gradients(double=True), case.tolerance32)
        if not wrong or not any(map(kinks.is_kinked, case.model.graph.node)):
            break
    checks.expect(not wrong, f"float32 gradients within {worst:.1e} of float64, draw {seed + 1} {wrong or ''}")


def check_directions(case, checks, gradients, point, count):
    directions = Directions(point, gradients, count, np.random.default_rng(1))
    parameters = set(point) - set(case.inputs)
    function, smooth = case.function(parameters), None
    total = directions.expected(point)
    for number, group in enumerate(directions.groups):
        direction = directions.draw(group)
        passed, text = compare(function, directions, direction, total)
        if not passed and not smooth:
            pattern = case.pattern()
            smooth = case.function(parameters, pattern)
            wrong, worst = disagreements(case.gradients(True, pattern), gradients, TOLERANCE)
            checks.expect(not wrong, f"the copy without kinks has the same gradients within {worst:.1e} {wrong or ''}")
        if not passed:
            passed, text = compare(smooth, directions, direction, total)
            text += " of the copy without kinks"
        checks.expect(passed, f"direction {number} over {len(group)} tensors: {text}")
        if not passed:
            print("      tensors:", ", ".join(group[:8]), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("graft")
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("--directions", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--mode", help="train where the model was exported for training, else infer")
    args = parser.parse_args()

    checks, path = Checks(), args.models / f"{args.name}.onnx"
    model = onnx.load(path)
    mode = args.mode or ("train" if exported_for_training(model) else "infer")
    graft = Graft(args.graft)
    inputs = make_inputs(args.name, model, args.batch)
    case = Case(graft, path, inputs, mode)
    gradients = case.gradients(double=True)

    tensors = case.tensors
    statistics = {name for n in model.graph.node if n.op_type == "BatchNormalization" for name in n.input[3:5]}
    weighted = ("Conv", "Gemm", "BatchNormalization", "LayerNormalization")
    weights = {name for n in model.graph.node if n.op_type in weighted for name in n.input[1:3] if name in tensors}
    float_inputs = {name for name, a in inputs.items() if a.dtype == np.float32}
    missing = (weights | float_inputs) - set(gradients)
    checks.expect(not missing, f"{len(gradients)} gradients, of all weights and float inputs {sorted(missing) or ''}")
    checks.expect(all(np.isfinite(a).all() for a in gradients.values()), "gradients are finite")
    check_float32(lambda seed: Case(graft, path, make_inputs(args.name, model, args.batch, seed), mode), checks)
    point = {name: (tensors | inputs)[name].astype(np.float64) for name in gradients if name not in statistics}
    check_directions(case, checks, gradients, point, args.directions)
    checks.finish()


main()

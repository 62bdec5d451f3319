"""What the end-to-end scripts share: the command, inputs for the test models, agreement of gradients, checks."""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDINGS = ROOT / "tests" / "recordings"
sys.path.insert(0, str(ROOT / "tests" / "models"))

SMALL = ["small_mlp", "small_cnn", "block"]
PACKAGED = ["ppocr_cls", "open_nsfw", "magika"]
GENERATED = ["mlp", "resnet18", "mobilenet_v2", "minilm", "minilm_classifier"]
MODELS = SMALL + PACKAGED + GENERATED


class Checks:
    """Collects failures, so that one run reports all of them."""

    def __init__(self):
        self.count, self.failures = 0, []

    def expect(self, condition, text):
        self.count += 1
        print(("ok    " if condition else "FAIL  ") + text, flush=True)
        if not condition:
            self.failures.append(text)
        return condition

    def finish(self):
        print(f"{self.count} checks, {len(self.failures)} failed")
        sys.exit(1 if self.failures or not self.count else 0)


class Graft:
    """The command under test, with a temporary folder for its files."""

    def __init__(self, binary):
        self.binary = pathlib.Path(binary).resolve()
        self.temporary = tempfile.TemporaryDirectory(prefix="graft-")
        self.folder = pathlib.Path(self.temporary.name)

    def call(self, *arguments, timeout=900, **options):
        return subprocess.run([self.binary, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=timeout, **options)

    def __call__(self, *arguments, timeout=900):
        """Stdout; a failed command is an error with what it said."""
        done = self.call(*arguments, timeout=timeout)
        if done.returncode:
            command = " ".join(["graft", *map(str, arguments)])
            raise RuntimeError(f"{command} exited with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout

    def run(self, model, inputs, cotangents=None, double=False, mode="infer"):
        """All arrays that `graft run` writes."""
        paths = {part: self.folder / f"{part}.npz" for part in ("inputs", "outputs", "cotangents")}
        np.savez(paths["inputs"], **inputs)
        arguments = ["run", model, "--inputs", paths["inputs"], "--outputs", paths["outputs"], "--mode", mode]
        if cotangents is not None:
            np.savez(paths["cotangents"], **cotangents)
            arguments += ["--vjp", paths["cotangents"]]
        arguments += ["--double"] if double else []
        paths["outputs"].unlink(missing_ok=True)
        self(*arguments)
        with np.load(paths["outputs"]) as arrays:
            return dict(arrays)


def make_inputs(name, model, batch=2, seed=0):
    """Random inputs by name. Free dims: `batch` first, then what the model is made for."""
    rng = np.random.default_rng(seed)
    free = {"ppocr_cls": {2: 48, 3: 96}, "minilm": {1: 9}, "minilm_classifier": {1: 9}}.get(name, {})
    scale = {"open_nsfw": 60}.get(name, 1)  # takes pixels less their mean
    inputs = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dims = [d.dim_value if d.dim_value > 0 else (batch if axis == 0 else free[axis])
                for axis, d in enumerate(kind.shape.dim)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if "mask" in value.name:
            array = np.ones(dims, dtype)
            array[-1, dims[1] * 2 // 3:] = 0
        elif "token_type" in value.name:
            array = np.zeros(dims, dtype)
            array[:, dims[1] // 2:] = 1
        elif np.issubdtype(dtype, np.integer):
            array = rng.integers(0, 200, dims).astype(dtype)
        else:
            array = (scale * rng.standard_normal(dims)).astype(dtype)
        inputs[value.name] = array
    return inputs


def write_samples(path, inputs, labels):
    """A data set as .npz: one array for each model input, and the labels."""
    np.savez(path, **inputs, labels=np.asarray(labels, np.int64))


def exported_for_training(model):
    return any(a.name == "training_mode" and a.i for node in model.graph.node for a in node.attribute) or any(
        node.op_type == "Dropout" and len(node.input) > 2 for node in model.graph.node)


def float_tensors(model):
    """Float tensors of the file by name: initializers, and Constant nodes by their output."""
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors |= {node.output[0]: a.t for a in node.attribute if a.name == "value"}
    return {name: onnx.numpy_helper.to_array(t) for name, t in tensors.items() if t.data_type == onnx.TensorProto.FLOAT}


def disagreements(gradients, references, tolerance):
    """Names where ||g - ref|| > tolerance * max(||ref||, 1e-3 * global norm), with the ratio; and the worst ratio."""
    norms = {name: np.linalg.norm(r.astype(np.float64)) for name, r in references.items()}
    floor = 1e-3 * np.sqrt(sum(n * n for n in norms.values()))
    ratios = {}
    for name, reference in references.items():
        difference = np.linalg.norm(gradients[name].astype(np.float64) - reference)
        ratios[name] = difference / max(norms[name], floor) if difference else 0.0
    return {name: r for name, r in ratios.items() if not r <= tolerance}, max(ratios.values())


def refused(graft, checks, name, arguments, codes, folder, word="", seconds=60, **options):
    """The command must end in time with one of the exit codes and one error line that has `word`, say nothing
    on stdout and leave `folder` as it was."""
    before = {p: p.lstat().st_mtime_ns for p in folder.rglob("*")}
    try:
        done = graft.call(*arguments, timeout=seconds, **options)
    except subprocess.TimeoutExpired:
        checks.expect(False, f"{name}: still running after {seconds} s")
        return
    said = done.stderr.strip()
    problems = []
    if done.returncode not in codes:
        problems.append(f"exit code {done.returncode}, expected {sorted(codes)}")
    if said.count("graft: error: ") != 1:
        problems.append(f"{said.count('graft: error: ')} error lines")
    if word not in said:
        problems.append(f"does not say {word}")
    if done.stdout:
        problems.append(f"{len(done.stdout)} characters on stdout")
    after = {p: p.lstat().st_mtime_ns for p in folder.rglob("*")}
    if before != after:
        problems.append(f"files changed: {sorted(str(p) for p in set(before.items()) ^ set(after.items()))}")
    if "*" * 8 in said:  # bytes of the file outside, see hostile_models.external
        problems.append("shows the content of a file outside")
    detail = "; ".join(problems) or (said.splitlines() or [""])[-1][:110]
    checks.expect(not problems, f"{name}: {detail}" + (f"\n      {said[-600:]}" if problems else ""))

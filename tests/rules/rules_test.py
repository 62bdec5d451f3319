"""The rules of the house that text can show: layers, who sees which library, stems, size, leftovers.

Needs nothing but Python: python3 tests/rules/rules_test.py
"""
import functools
import pathlib
import re
import subprocess
import unittest

root = pathlib.Path(__file__).resolve().parents[2]

# Order of inclusion: a file sees files of its own layer and of those above it in this list. The first match counts.
LAYERS = [
    ("graph/schema", r"graph/(schema|proto)\.\w+"),
    ("graph/passes", r"graph/passes/.*"),
    ("graph (IR)", r"graph/.*"),
    ("device interface", r"runtime/device/device\.h"),
    ("ops/op.h", r"ops/(op|build|gradient|op_list|cuda_kernel)\.\w+"),
    ("devices", r"runtime/device/.*"),
    ("ops", r"ops/.*"),
    ("session facade", r"runtime/model_session\.\w+"),
    ("runtime", r"runtime/.*"),
    ("importers", r"importers/.*"),
    ("cli", r"cli/.*"),
]
ORDER = ["graph (IR)", "graph/schema", "device interface", "ops/op.h", "devices", "graph/passes", "ops", "runtime",
         "importers", "session facade", "cli"]

# Library headers and the files that may include them. Tests may include any.
LIBRARIES = {
    "onnx, protobuf": (r"(onnx|google/protobuf)/.*", r"graph/(schema|proto)\.\w+|importers/onnx/.*"),
    "oneDNN": (r"oneapi/dnnl/.*|dnnl.*", r"ops/[^/]*\.cpp|ops/[^/]*dnnl[^/]*\.h|runtime/device/cpu/.*"),
    "Highway": (r"hwy/.*", r"ops/.*|runtime/device/cpu/.*"),
    "CUDA": (r"(cuda|cublas|cudnn|nvrtc|nccl).*\.h", r"ops/.*\.cuh?|runtime/device/cuda/.*"),
    "fmt, spdlog, CLI11": (r"(fmt|spdlog|CLI)/.*", r"cli/.*"),
    # Headers alone: what the library is linked to does not grow.
    "JSON": (r"nlohmann/.*", r"cli/.*|runtime/kernel_cache\.cpp"),
    "yaml-cpp": (r"yaml-cpp/.*", r"(importers/data|cli)/.*"),
    "zlib": (r"zlib\.h", r"importers/data/zip\.cpp"),
    # In the modules alone, see importers/data/module.h.
    "OpenCV": (r"opencv2/.*", r"importers/data/decode_image\.cpp"),
    "Arrow": (r"(arrow|parquet)/.*", r"importers/data/table\w*\.(cpp|h)"),
}
# What a file must not reach through any chain of our headers.
UNSEEN = [
    (r"ops/.*\.cpp", r"(cuda|cublas|cudnn).*\.h"),
    (r".*\.cuh?", r"(onnx|google/protobuf)/.*|oneapi/dnnl/.*|dnnl.*"),
]

LONG_FILES = {
    # path: why it is not split
}
LINES = 500

# Stems whose tests are in the file of another one.
TESTED_IN = {"adam": "optimiser", "cast": "shape_change", "channel_sum": "conv", "expand": "shape_change",
             "gemm": "matmul", "logical": "binary", "reshape": "shape_change", "sgd": "optimiser", "where": "binary"}


@functools.cache
def tracked():
    """Our files, as git sees them: tracked, or new and not ignored."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, check=True, text=True).stdout
    return sorted(name for name in listed.split("\0") if name and (root / name).is_file())


@functools.cache
def text(name):
    return (root / name).read_text(errors="replace")


@functools.cache
def sources():
    return [name for name in tracked() if re.fullmatch(r".*\.(h|cpp|cu|cuh)", name)]


@functools.cache
def includes(name):
    return re.findall(r'^\s*#\s*include\s+["<]([^">]+)[">]', text(name), re.M)


@functools.cache
def reached(name):
    """Everything that a file includes, directly or through our headers."""
    found, pending = set(), [name]
    while pending:
        for header in includes(pending.pop()):
            if header not in found:
                found.add(header)
                if header in known():
                    pending.append(header)
    return found


@functools.cache
def known():
    return frozenset(sources())


def layer(name):
    return next((label for label, pattern in LAYERS if re.fullmatch(pattern, name)), None)


def product():
    """Sources outside tests, benchmarks and examples."""
    return [name for name in sources() if layer(name)]


class Rules(unittest.TestCase):
    def nothing(self, found, rule):
        self.assertFalse(found, f"\n{rule}:\n  " + "\n  ".join(sorted(found)))

    def test_every_source_has_a_layer(self):
        self.nothing([name for name in sources() if not layer(name) and
                      not re.match(r"(tests|bench|examples|python)/", name)], "outside the house")

    def test_include_order(self):
        wrong = []
        for name in product():
            for header in includes(name):
                above = layer(header)
                if above and ORDER.index(above) > ORDER.index(layer(name)):
                    wrong.append(f"{name} ({layer(name)}) includes {header} ({above})")
        self.nothing(wrong, "against the order " + " -> ".join(ORDER))

    def test_includes_have_no_cycle(self):
        self.nothing([name for name in sources() if name in reached(name) and name != "ops/op_list.h"],
                     "headers that reach themselves")

    def test_includes_are_written_from_the_root(self):
        wrong = [f"{name}: {header}" for name in product() for header in
                 re.findall(r'^\s*#\s*include\s+"([^"]+)"', text(name), re.M) if header not in known()]
        self.nothing(wrong, 'in quotes, but no file of ours (libraries are in <>)')

    def test_libraries_stay_where_they_belong(self):
        wrong = []
        for library, (headers, allowed) in LIBRARIES.items():
            for name in product():
                if not re.fullmatch(allowed, name):
                    wrong += [f"{name}: {h} ({library})" for h in includes(name) if re.fullmatch(headers, h)]
        self.nothing(wrong, "library headers out of place")

    def test_libraries_that_are_not_seen_at_all(self):
        wrong = []
        for pattern, headers in UNSEEN:
            for name in product():
                if re.fullmatch(pattern, name):
                    wrong += [f"{name} reaches {h}" for h in reached(name) if re.fullmatch(headers, h)]
        self.nothing(wrong, "a .cpp sees no CUDA header, a .cu neither protobuf nor oneDNN")

    def test_one_line_for_each_stem(self):
        lines = [line for line in text("ops/op_list.h").splitlines() if line and not line.startswith("//")]
        stems = [re.fullmatch(r"GRAFT_STEM\((\w+)\)", line)[1] for line in lines]
        self.assertEqual(stems, sorted(set(stems)), "ops/op_list.h is in alphabetical order, each stem once")
        defined = {}
        for name in sources():
            if re.fullmatch(r"ops/[^/]*\.cpp", name):
                for stem in re.findall(r"^std::vector<Op> (\w+)_ops\(\)", text(name), re.M):
                    defined[stem] = name
        self.assertEqual({stem: f"ops/{stem}.cpp" for stem in stems}, defined,
                         "each stem has the file of its name, and each file with operators its line")

    def test_each_stem_has_its_test(self):
        stems = re.findall(r"^GRAFT_STEM\((\w+)\)", text("ops/op_list.h"), re.M)
        self.nothing([stem for stem in stems if f"tests/ops/{TESTED_IN.get(stem, stem)}_test.cpp" not in known()],
                     "stems without tests/ops/STEM_test.cpp")
        kernels = [re.fullmatch(r"ops/(.*)\.cu", name)[1] for name in sources() if re.fullmatch(r"ops/.*\.cu", name)]
        self.nothing([stem for stem in kernels if f"tests/cuda_on_cpu/{stem}_test.cpp" not in known()],
                     "CUDA kernels without tests/cuda_on_cpu/STEM_test.cpp")
        self.nothing([stem for stem in kernels if f"ops/{stem}.cpp" not in known()], "CUDA kernels without a stem")

    def test_operators_know_one_opset_only(self):
        self.nothing([name for name in product() if re.fullmatch(r"ops/[^/]*", name) and layer(name) == "ops" and
                      re.search(r"opset", text(name))], "ops/ never branches on opset: importers/onnx lifts")

    def test_cli_has_one_file_for_each_verb(self):
        if "cli/main.cpp" not in known():
            return
        verbs = re.findall(r"\badd_(\w+)\(app\)", text("cli/main.cpp"))
        self.assertTrue(verbs, "verbs that cli/main.cpp adds")
        self.nothing([verb for verb in verbs if f"cli/{verb}.cpp" not in known()], "verbs without their file in cli/")

    def test_nothing_unfinished(self):
        marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bDISABLED_\w|not implemented yet")
        wrong = [f"{name}:{i + 1}: {line.strip()[:80]}" for name in tracked()
                 if name != "tests/rules/rules_test.py" and re.fullmatch(r".*\.(h|cpp|cu|cuh|py|cmake|txt|md)|scripts/.*", name)
                 for i, line in enumerate(text(name).splitlines()) if marks.search(line)]
        self.nothing(wrong, "marks of unfinished work")

    def test_no_path_of_one_machine(self):
        paths = re.compile(r"(?<![\w.])/(work|home|root|Users|mnt)/\w")
        wrong = [f"{name}:{i + 1}: {line.strip()[:80]}" for name in tracked()
                 if name != "tests/rules/rules_test.py" and not re.fullmatch(r".*\.(npz|png|jpg|bin)", name)
                 for i, line in enumerate(text(name).splitlines()) if paths.search(line)]
        self.nothing(wrong, "absolute paths of some machine")

    def test_file_length(self):
        long = {name: text(name).count("\n") for name in tracked()
                if re.fullmatch(r".*\.(h|cpp|cu|cuh|py)", name) and text(name).count("\n") > LINES}
        self.nothing([f"{name}: {lines} lines" for name, lines in long.items() if name not in LONG_FILES],
                     f"more than {LINES} lines, without a reason in LONG_FILES")
        self.nothing([name for name in LONG_FILES if name not in long], "no longer long: take it out of LONG_FILES")

    def test_headers_are_guarded(self):
        self.nothing([name for name in sources() if re.fullmatch(r".*\.cuh?|.*\.h", name) and not name.endswith(".cu") and
                      "#pragma once" not in text(name) and name != "ops/op_list.h" and
                      not (name.endswith("-inl.h") and "HWY_TARGET_TOGGLE" in text(name))],
                     "headers without #pragma once, or Highway's toggle")

    def test_names_say_what_things_are(self):
        vague = re.compile(r"\b(?:class|struct)\s+(\w*(?:Manager|Helper|Utils?|Impl))\b")
        wrong = [f"{name}: {found}" for name in product() for found in vague.findall(text(name))]
        wrong += [name for name in sources() if re.search(r"(manager|helpers?|utils?|impl)\.\w+$", name)]
        self.nothing(wrong, "no Manager, Helper, Utils, Impl")

    def test_models_and_big_files_stay_out(self):
        self.nothing([name for name in tracked() if name.endswith((".onnx", ".ckpt")) or
                      (root / name).stat().st_size > 1 << 20], "models, or files above 1 MB")


if __name__ == "__main__":
    unittest.main()

"""Runs clang-tidy over the sources of a build.

A file that passed before with the same content, headers, flags and checks is not looked at again: the results are
kept by content hash under $XDG_CACHE_HOME/graft/tidy (~/.cache).
clang-tidy is the one that scripts/setup installed: from version 22 on it leaves out the headers of other libraries,
where older ones spend most of their time.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("build", type=pathlib.Path, help="a build folder with compile_commands.json")
parser.add_argument("files", nargs="*", type=pathlib.Path, help="sources to check; all of the build without any")
parser.add_argument("--but", metavar="FOLDER", action="append", default=[], help="leave this folder out")
arguments = parser.parse_args()

root = pathlib.Path(__file__).resolve().parent.parent
build = arguments.build.resolve()
wanted = {path.resolve() for path in arguments.files}
left_out = [build, *(root / folder for folder in arguments.but)]
tidy = pathlib.Path(os.environ.get("GRAFT_DEPS", root / ".deps")) / "venv" / "bin" / "clang-tidy"
cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "graft" / "tidy"
cache.mkdir(parents=True, exist_ok=True)


def clang_arguments(command):
    """GCC's command line without its own warnings and the output; omp.h is found among GCC's headers."""
    kept, skip = [], False
    for argument in shlex.split(command):
        if skip:
            skip = False
        elif argument == "-o":
            skip = True
        elif not argument.startswith("-W") and pathlib.PurePath(argument).name != "ccache":
            kept.append(argument)
    return kept + ["-w", "-idirafter", gcc_headers]


def project_includes(path, seen):
    """The text of a file and of every project header below it, in a fixed order."""
    if path in seen or not path.is_file():
        return
    seen[path] = path.read_bytes()
    for name in re.findall(rb'^\s*#\s*include\s+"([^"]+)"', seen[path], re.M):
        for folder in (root, path.parent):
            project_includes((folder / name.decode()).resolve(), seen)


def key_of(path, command):
    seen = {}
    project_includes(path, seen)
    digest = hashlib.sha256((root / ".clang-tidy").read_bytes() + version.encode())
    digest.update("\0".join(command).replace(str(root), "").encode())
    for name in sorted(seen):
        digest.update(str(name.relative_to(root)).encode() + b"\0" + seen[name])
    return digest.hexdigest()


def check(path):
    result = subprocess.run([tidy, "-p", database, "--quiet", path], capture_output=True, text=True)
    return path, result.returncode, result.stdout


def findings(output):
    """The output in pieces, each a finding with its notes."""
    return [piece for piece in re.split(r"^(?=\S+:\d+:\d+: (?:error|warning):)", output, flags=re.M) if piece.strip()]


def said_by(*command):
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


if not tidy.exists():
    sys.exit(f"tidy: there is no {tidy}: run scripts/setup")
version = said_by(tidy, "--version")
gcc_headers = said_by("g++", "-print-file-name=include")
entries = {}
for entry in json.loads((build / "compile_commands.json").read_text()):
    path = pathlib.Path(entry["file"]).resolve()
    ours = path.suffix == ".cpp" and path.is_relative_to(root) and not any(map(path.is_relative_to, left_out))
    if ours and (not wanted or path in wanted):
        command = clang_arguments(entry["command"])
        entries[path] = {"directory": entry["directory"], "file": str(path), "arguments": command}
database = build / "tidy"
database.mkdir(exist_ok=True)
(database / "compile_commands.json").write_text(json.dumps(list(entries.values())))

keys = {path: cache / key_of(path, entry["arguments"]) for path, entry in entries.items()}
pending = [path for path in sorted(keys) if not keys[path].exists()]
print(f"tidy: {len(entries)} files, {len(entries) - len(pending)} known to pass", flush=True)
start, failed, shown = time.monotonic(), 0, set()
with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    for path, code, output in pool.map(check, pending):
        if code == 0:
            keys[path].touch()
        else:
            failed += 1
            for finding in findings(output):
                if finding not in shown:  # one in a header is found by all who include it
                    print(finding.replace(f"{root}/", "").rstrip(), flush=True)
                shown.add(finding)
if pending:
    print(f"tidy: {len(pending)} files in {time.monotonic() - start:.0f} s, {failed} with findings")
sys.exit(1 if failed else 0)

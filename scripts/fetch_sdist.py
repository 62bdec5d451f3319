"""Downloads a package's source archive with pip and unpacks it: fetch_sdist.py NAME VERSION DIR."""
import pathlib
import subprocess
import sys
import tarfile

name, version, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-binary", name,
                "--dest", folder, f"{name}=={version}"], check=True)
archives = sorted(folder.glob("*.tar.gz"))
if len(archives) != 1:
    sys.exit(f"fetch_sdist: expected one archive of {name} {version}, got {[a.name for a in archives]}")
with tarfile.open(archives[0]) as archive:
    archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)

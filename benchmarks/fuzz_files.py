"""Damaged files of every kind that is read: each must give one error of ours that names it, or be read, and soon.

    python benchmarks/fuzz_files.py --count 20000 --seed 0

Files of weights (`.pth` of both layouts, safetensors), YAML (grids, devices, links) and pictures are made small,
mutated (bits, bytes, cuts, repeats, swapped pieces, and values at the borders of integers), and read as a sweep reads
them. Reported: files read, errors of ours, raw exceptions with their inputs' seeds, the slowest, and the growth of
memory. The exit status is 1 where there was a raw exception, or a file that took longer than `SLOW_S`.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import safetensors.torch
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pplib.devices import load_testbed  # noqa: E402
from pplib.errors import ParetoPipeError  # noqa: E402
from pplib.grid import load_grid  # noqa: E402
from pplib.links import load_links  # noqa: E402
from pplib.model.pictures import open_picture  # noqa: E402
from pplib.model.weights.checkpoint import apply_checkpoint, read_checkpoint  # noqa: E402

SLOW_S = 10.0
BORDERS = [struct.pack("<q", value)[:size] for value in (0, -1, 2**31 - 1, 2**31, 2**62) for size in (1, 2, 4, 8)]
TOKENS = [b"*a", b"&a ", b"!!int ", b"[", b"{", b": ", b"- ", b"<<: *a\n", b'"\\ud800"', b"1e999", b".nan", b"9" * 5000]


def network() -> nn.Module:
    """The model that weights are for."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def weights(legacy: bool) -> bytes:
    """A checkpoint as training leaves it."""
    file, model = io.BytesIO(), network()
    content = {"epoch": 3, "state_dict": model.state_dict(), "args": {"lr": 0.1}}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def picture(kind: str, mode: str) -> bytes:
    """A small picture with something in it, and an orientation."""
    file, image = io.BytesIO(), Image.effect_noise((37, 23), 80).convert(mode)
    exif = Image.Exif()
    exif[274] = 6
    image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    return file.getvalue()


def yaml_file(name: str) -> bytes:
    """A file of the checkout."""
    return (ROOT / "params" / name).read_bytes()


Reader = Callable[[Path], object]


def read_weights(path: Path) -> object:
    """As a sweep does: all tensors into the model."""
    states = read_checkpoint(str(path))
    return apply_checkpoint(network(), states, str(path))


def kinds() -> dict[str, list[tuple[str, bytes, Reader]]]:
    """For each kind of file: names, contents to start from, and what reads them."""
    tensors = {key: value.contiguous() for key, value in network().state_dict().items()}
    grids = [(f"{name}.yaml", yaml_file(f"{name}.yaml"), load_grid) for name in ("default", "models", "links-demo")]
    devices = [("d.yaml", yaml_file(f"devices/{name}.yaml"), load_testbed) for name in ("local", "pi-gpu")]
    pictures = [("JPEG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "L")]
    pictures += [("WEBP", "RGB"), ("PPM", "RGB")]
    return {
        "pth": [("a.pth", weights(False), read_weights), ("b.pth", weights(True), read_weights)],
        "safetensors": [("a.safetensors", safetensors.torch.save(tensors), read_weights)],
        "YAML": [*grids, *devices, ("links.yaml", yaml_file("links.yaml"), load_links)],
        "images": [(f"a.{kind.lower()}", picture(kind, mode), open_picture) for kind, mode in pictures],
    }


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to eight changes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        # The beginning decides most.
        at = chance.randrange(min(len(data), chance.choice((64, 1024, 1 << 30))) or 1)
        match chance.randrange(8):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ (1 << chance.randrange(8))]) if data else b"x"
            case 1:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 2:
                del data[at : at + chance.randint(1, 64)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 200)] * chance.randint(1, 20)
            case 4:
                border = chance.choice(BORDERS)
                data[at : at + len(border)] = border
            case 5:
                data[at:at] = chance.choice(TOKENS)
            case 6:
                other = chance.randrange(len(data) or 1)
                size = chance.randint(1, 64)
                data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
            case 7:
                if not chance.randrange(4):
                    del data[at:]
    return bytes(data)


def fuzz(kind: str, count: int, seed: int, folder: Path) -> dict[str, object]:
    """Read `count` mutated files of a kind; what came of them."""
    found: Counter[str] = Counter()
    raw: list[str] = []
    slowest, bases, process = (0.0, 0), kinds()[kind], psutil.Process()
    start, before = time.monotonic(), process.memory_info().rss
    for i in range(count):
        chance = random.Random(f"{kind} {seed} {i}")
        name, content, read = chance.choice(bases)
        path = folder / name
        path.write_bytes(mutated(content, chance))
        begun = time.monotonic()
        try:
            read(path)
            found["read"] += 1
        except ParetoPipeError as exc:
            found["errors" if str(path) in str(exc) else "errors without the file's name"] += 1
        except Exception:  # noqa: BLE001 (this is what is looked for)
            found["raw exceptions"] += 1
            raw.append(f"--seed {seed}, input {i}: {traceback.format_exc(limit=-3)}")
        slowest = max(slowest, (time.monotonic() - begun, i))
        if i == min(500, count // 2):
            before = process.memory_info().rss  # what is loaded once is loaded by now
    return {
        **found,
        "seconds": round(time.monotonic() - start, 1),
        "slowest_s": round(slowest[0], 3),
        "slowest_input": slowest[1],
        "growth_mb": round((process.memory_info().rss - before) / 1e6, 1),
        "raw": raw,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz every kind, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[[], *kinds()], default=[], help="default: all")
    parser.add_argument("--count", type=int, default=20_000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    bad = False
    with tempfile.TemporaryDirectory(prefix="fuzz-files-") as folder:
        for kind in options.kinds or kinds():
            result = fuzz(kind, options.count, options.seed, Path(folder))
            raw = result.pop("raw")
            assert isinstance(raw, list)
            bad |= bool(raw) or float(str(result["slowest_s"])) > SLOW_S
            print(kind, *(f"{key}={value}" for key, value in result.items()), flush=True)
            print(*raw[:20], sep="\n", end="", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

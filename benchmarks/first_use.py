"""One library's first use, in a process of its own: run by `memory_and_cold_start.py`.

`python first_use.py PEER FOLDER` loads the networks in FOLDER, takes one face through them, then a
hundred, and prints as JSON when the first was done (`time.monotonic()`) and the memory in bytes:
at its peak until then, and at the end. Nothing is imported that the library does not need.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Takes one face, uint8 [1, S, S, 3] RGB.
Run = Callable[[Any], Any]
FACES = 100


def dtir(folder: Path) -> Run:
    """Through the SDK."""
    from dtir_sdk import Recognizer, Transfer

    transfer = Transfer(folder / "bundle", device="cpu", color="rgb")
    recognizer = Recognizer(folder / "bundle", device="cpu", color="rgb")
    return lambda face: recognizer.batch(transfer(face))


def openvino(folder: Path) -> Run:
    """OpenVINO, plain."""
    from openvino import Core

    core = Core()
    transfer, recognizer = (
        core.compile_model(core.read_model(path), "CPU", {}) for path in _graphs(folder)
    )
    return lambda face: recognizer(transfer(face)[0])[0]


def onnxruntime(folder: Path) -> Run:
    """ONNX Runtime, plain."""
    from onnxruntime import InferenceSession

    transfer, recognizer = (
        InferenceSession(path, providers=["CPUExecutionProvider"]) for path in _graphs(folder)
    )
    return lambda face: recognizer.run(
        None, {"transferred": transfer.run(None, {"image": face})[0]}
    )


def torch_eager(folder: Path) -> Run:
    """PyTorch, float32."""
    return _torch(folder, compiled=False)


def torch_compile(folder: Path) -> Run:
    """torch.compile, float32."""
    return _torch(folder, compiled=True)


def _torch(folder: Path, *, compiled: bool) -> Run:
    import torch
    from safetensors.torch import load_file

    from dtir_train.channel import from_bytes, to_bytes
    from dtir_train.networks import Generator, Recognizer

    sizes = json.loads((folder / "sizes.json").read_text())
    transfer = Generator(sizes["channels"], sizes["blocks"])
    recognizer = Recognizer(sizes["classes"], sizes["backbone"], sizes["recognizer_width"])
    for name, network in (("transfer", transfer), ("recognizer", recognizer)):
        network.load_state_dict(load_file(folder / f"{name}.safetensors"))
        network.eval()

    def both(pictures: torch.Tensor) -> torch.Tensor:
        cartoons = to_bytes(transfer(from_bytes(pictures.permute(0, 3, 1, 2))))
        return torch.softmax(recognizer(from_bytes(cartoons)), dim=1)

    call = torch.compile(both, dynamic=False) if compiled else both

    def run(face: Any) -> Any:  # noqa: ANN401, numpy is imported by the peer alone
        with torch.inference_mode():
            return call(torch.from_numpy(face)).numpy()

    return run


PEERS = {each.__name__: each for each in (dtir, openvino, onnxruntime, torch_eager, torch_compile)}


def _graphs(folder: Path) -> list[str]:
    return [str(folder / "bundle" / f"{name}.onnx") for name in ("transfer", "recognizer")]


def memory(field: str) -> int:
    """Reads VmRSS or VmHWM, the memory in use now or at its peak, in bytes. On Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def main(peer: str, folder: Path) -> None:
    """Loads, runs and prints."""
    import numpy as np

    face = np.load(folder / "face.npy")
    run = PEERS[peer](folder)
    run(face)
    first, peak = time.monotonic(), memory("VmHWM")
    for _ in range(FACES):
        run(face)
    print(json.dumps({"first": first, "peak": peak, "settled": memory("VmRSS")}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Weights of extractors: safetensors, the few pickles that are known, and what the hub's cache already holds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vlgen.checkpoint import sha256


def state(path: Path, *, known: str = "", mend: str = "") -> dict[str, Tensor]:
    """The tensors of a weights file by their names: safetensors, or the one pickle whose sha256 is `known`.

    mend  what a refusal tells to do

    A pickle can run code when it is opened. The two that are read are files of other people's releases which exist in
    no other form; each is compared with a digest in vlgen's own source, and then opened by torch's unpickler for
    tensors alone. A pickle from anywhere else is refused, whoever gives it: it may have been written by anyone.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    mend = mend or "get it again, or convert weights that you trust with safetensors.torch.save_file"
    if not path.is_file():
        raise ValueError(f"{path}, which should hold the weights, is missing: {mend}")
    try:
        return load_file(path)
    except SafetensorError:
        pass  # then it is the known pickle, or refused
    if not known or sha256(path) != known:
        raise ValueError(f"{path} is no safetensors file{', and not the one that is known' if known else ''}: {mend}")
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def fill(network: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Every weight of a network from a file that holds exactly those; then in float32, for inference."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the weights in {path} are not those of the network: {reason}") from None
    network.float().eval().requires_grad_(False)


def cached(repository: str, name: str) -> Path:
    """The folder of a hub repository in the local cache; nothing is downloaded."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, local_files_only=True))
    except Exception:  # the hub's client raises a dozen classes for "not here" and "not a name"
        raise ValueError(
            f"the features {name!r} are made by {repository}, which is not in the hub's cache: `hf download "
            f"{repository}` puts it there, or give {name}:FOLDER; vlgen itself never downloads"
        ) from None

"""Networks trained on radiographs: RAD-DINO and vision transformers like it, and torchxrayvision's DenseNet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlgen.features.extractor import Extractor, Preprocessing, build
from vlgen.features.weights import cached, fill, state
from vlgen.folder import read_json

RAD_DINO = "microsoft/rad-dino"
RAD_DINO_MEAN, RAD_DINO_STD = 0.5307, 0.2583  # of the films that it was trained on
# The classes that a folder may name: each gives its class token first, after its last norm.
TRANSFORMERS = {
    "dinov2": ("Dinov2Model", {}),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", {}),
    "vit": ("ViTModel", {"add_pooling_layer": False}),
}
PROCESSOR, XRAY_FILE = "preprocessor_config.json", "densenet121-res224-all.safetensors"
_CONVERT = (
    "torchxrayvision publishes a pickle, which vlgen does not open; if you trust it, convert it with "
    "safetensors.torch.save_file(torchxrayvision.models.DenseNet(weights='densenet121-res224-all').state_dict(), FILE) "
    "and give torchxrayvision:FILE"
)
_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def rad_dino(folder: Path | None) -> Extractor:
    """RAD-DINO: the class token of a DINOv2 trained on chest films of 518 pixels, 768 features.

    Perez-Garcia et al. 2025, arXiv:2401.10815.
    """
    folder = folder or cached(RAD_DINO, "rad-dino")
    given = read_json(folder / PROCESSOR)
    for key, wanted in (("image_mean", RAD_DINO_MEAN), ("image_std", RAD_DINO_STD)):
        if given.get(key) != [wanted] * 3:
            raise ValueError(f"{folder / PROCESSOR} says {key} {given.get(key)}: RAD-DINO wants {wanted} thrice")
    return transformer(folder, "rad-dino")


def transformer(folder: Path, name: str) -> Extractor:
    """The class token of a vision transformer in transformers' folder format, from a fixed list of classes."""
    import transformers

    config = read_json(folder / "config.json")
    if config.get("model_type") not in TRANSFORMERS:
        raise ValueError(f"{folder} holds a {config.get('model_type')}: vlgen builds {', '.join(TRANSFORMERS)}")
    preprocessing = _processed(read_json(folder / PROCESSOR), folder)
    if int(config.get("num_channels", 3)) != len(preprocessing.black):
        raise ValueError(f"{folder} has a network of {config['num_channels']} channels and a mean of another number")
    kind, options = TRANSFORMERS[config["model_type"]]
    try:
        with _quiet():
            network, found = getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} holds no whole {kind} as safetensors: {reason}") from None
    if found["missing_keys"]:  # transformers draws them at random, and only warns
        raise ValueError(f"the weights in {folder} lack {len(found['missing_keys'])} of the network's: get them again")
    network.float().eval().requires_grad_(False)

    def token(x: Tensor) -> Tensor:
        states: Tensor = network(pixel_values=x).last_hidden_state
        return states[:, 0]

    files = [folder / "config.json", folder / PROCESSOR, *folder.glob("*.safetensors")]
    return build(name, token, preprocessing, int(config["hidden_size"]), files)


def torchxrayvision(path: Path | None) -> Extractor:
    """torchxrayvision's DenseNet-121 of seven chest film collections: one channel in [-1024, 1024], 1024 features.

    path  its weights as a safetensors file, or a folder with them

    Cohen et al. 2022, arXiv:2111.00595.
    """
    try:
        from torchxrayvision.models import DenseNet  # type: ignore[import-untyped]
        from torchxrayvision.utils import get_cache_dir  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError(
            'the features "torchxrayvision" want a package of that name: pip install "vlgen[eval]"'
        ) from None
    path = path or Path(get_cache_dir())
    at = path / XRAY_FILE if path.is_dir() or not path.suffix else path
    tensors = state(at, mend=_CONVERT)
    tensors.pop("op_threshs", None)  # operating points of the classifier, which the class takes as an argument
    try:
        network = DenseNet(**_dense(tensors))
    except (KeyError, IndexError, ZeroDivisionError):
        raise ValueError(f"{at} does not hold the weights of a DenseNet of torchxrayvision's") from None
    fill(network, tensors, at)
    network.to(memory_format=torch.channels_last)
    wants = Preprocessing(224, (-1024.0,), (1024.0,))
    return build("torchxrayvision", network.features2, wants, network.classifier.in_features, [at])


def _dense(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of torchxrayvision's DenseNet, read off the shapes of its weights."""
    layers = [m for key in tensors if (m := re.search(r"denseblock(\d+)\.denselayer(\d+)\.conv1\.weight", key))]
    depth: dict[int, int] = {}
    for match in layers:
        depth[int(match[1])] = max(depth.get(int(match[1]), 0), int(match[2]))
    growth = tensors["features.denseblock1.denselayer1.conv2.weight"].shape[0]
    stem = tensors["features.conv0.weight"]
    return {
        "growth_rate": growth,
        "block_config": tuple(depth[block] for block in sorted(depth)),
        "num_init_features": stem.shape[0],
        "bn_size": tensors["features.denseblock1.denselayer1.conv1.weight"].shape[0] // growth,
        "num_classes": tensors["classifier.weight"].shape[0],
        "in_channels": 1,
    }


def _processed(given: Mapping[str, Any], folder: Path) -> Preprocessing:
    """What transformers' image processor does to a square image; the margin that some cut off is kept."""
    size = given.get("crop_size") if given.get("do_center_crop") else given.get("size")
    if isinstance(size, Mapping):
        sides = {size[key] for key in ("height", "width", "shortest_edge") if key in size}
        size = sides.pop() if len(sides) == 1 else None
    filter = _FILTERS.get(given.get("resample", 3))
    scale = given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0
    if not isinstance(size, int) or not filter or abs(255 * scale - 1) > 1e-6:
        raise ValueError(
            f"{folder / PROCESSOR} wants a size of {size}, resampling {given.get('resample')} and a scale of "
            f"{scale}: vlgen knows square images, 2 (bilinear) or 3 (bicubic), and 1/255"
        )
    mean, std = given.get("image_mean"), given.get("image_std")
    if not given.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    if not mean or not std:
        raise ValueError(f"{folder / PROCESSOR} names no image_mean and image_std: give a whole one")
    return Preprocessing.normalized(size, mean, std, filter=filter)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no table of keys on the terminal; what they would say is checked."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging  # untyped
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()

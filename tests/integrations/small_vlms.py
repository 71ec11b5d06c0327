"""Small random multimodal models of transformers, their processors, and engines made of their vision towers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from export.__main__ import main
from tests.small_recipe import small_recipe

SIZE, PATCH, WIDTH = 32, 8, 32
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5] * 3
WORDS = [
    "a",
    "cat",
    "dog",
    "on",
    "the",
    "mat",
    "sees",
    "some",
    "red",
    "blue",
    "thing",
    "what",
    "is",
    "there",
    "near",
    "it",
]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
_TEXT = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "head_dim": 12,
}
_VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
} | {
    "image_size": SIZE,
    "patch_size": PATCH,
}
# Fields of fsfast's ViTConfig for such towers.
CLIP = {"width": WIDTH, "layers": 3, "heads": 2, "patch": PATCH, "image_size": SIZE, "embed_dim": 16} | {
    "mlp_ratio": 1.5,
    "activation": "quick_gelu",
}
SIGLIP = (
    CLIP
    | {"embed_dim": WIDTH, "activation": "gelu_tanh", "class_token": False, "pre_norm": False}
    | {
        "norm_eps": 1e-6,
        "biases": ["q", "k", "v", "o", "mlp", "patch"],
        "pooling": "none",
        "projection": False,
    }
)
QWEN2_5 = (
    SIGLIP
    | {"embed_dim": 48, "activation": "silu_gated", "norm": "rms", "window": 2, "full_layers": [1]}
    | {
        "biases": ["q", "k", "v", "o", "mlp"],
        "learned_positions": False,
        "rope_theta": 10000.0,
        "rope_grid": "from_0",
        "merge": 2,
    }
)
QWEN2 = QWEN2_5 | {
    "activation": "quick_gelu",
    "norm": "layer",
    "mlp_ratio": 2,
    "window": 0,
    "full_layers": [],
}
QWEN3 = SIGLIP | {"embed_dim": 48, "rope_theta": 10000.0, "rope_grid": "from_0", "merge": 2, "taps": [0, 1]}


@dataclass(frozen=True)
class Small:
    """A small model and what belongs to it.

    Attributes:
        model: in evaluation, float32.
        processor: with the host's own image processor.
        prompt: for one image.
        tower: the name of its vision tower in `model.model`.
        config: fields of the tower's ViTConfig.
        output: that the model reads, as `fsfast export --output` names it.
        mean, std: of its pixel values.
        nested: whether its processor wants a list of images for each text.
    """

    model: Any
    processor: Any
    prompt: str
    tower: str
    config: dict[str, Any]
    output: str
    mean: list[float]
    std: list[float]
    nested: bool = False

    @property
    def plain(self) -> Any:
        """Its own vision tower."""
        return getattr(self.model.model, self.tower)


def tokenizer(*special: str) -> Any:
    """A tokenizer of a few words, which knows these special tokens."""
    words = [*SPECIAL, *(word for word in special if word not in SPECIAL), *WORDS, "user", "assistant", "\n"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        additional_special_tokens=[*SPECIAL[4:], *special],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def lively(model: Any, seed: int = 0) -> Any:
    """Weights under which a picture changes what the model says."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        fan = math.prod(tensor.shape[1:]) or 1
        if tensor.dim() > 1:
            tensor.data = torch.randn(tensor.shape, generator=generator) * fan**-0.5
        elif not name.endswith("weight"):
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.3
    return model.eval()


def _image_processor(name: str, **options: Any) -> Any:
    """The processor that needs no torchvision, whatever this version calls it."""
    found = getattr(hf, f"{name}ImageProcessorPil", None) or getattr(hf, f"{name}ImageProcessor")
    return found(**options)


def _processor(name: str, *parts: Any, **options: Any) -> Any:
    """A processor that takes our tokenizer for its family's, and no video processor, which would need torchvision."""
    kind = type(
        name,
        (getattr(hf, name),),
        {"check_argument_for_proper_class": lambda self, argument, value: type(value)},
    )
    return kind(*parts, **options)


def llava(layer: int = -2, strategy: str = "default") -> Small:
    """LLaVA-1.5."""
    words = tokenizer()
    text = hf.LlamaConfig(vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2, **_TEXT)
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(projection_dim=16, **_VISION),
        text_config=text,
        image_token_index=4,
        image_seq_length=16,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    side = {"height": SIZE, "width": SIZE}
    images = _image_processor("CLIP", size=side, crop_size=side, do_resize=True)
    processor = _processor(
        "LlavaProcessor",
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    )
    model = lively(hf.LlavaForConditionalGeneration(config))
    output = {-2: "penultimate", -1: "tokens"}.get(layer, "penultimate")
    return Small(model, processor, "<image> what is there", "vision_tower", CLIP, output, CLIP_MEAN, CLIP_STD)


def llava_next() -> Small:
    """LLaVA-NeXT, which cuts images into tiles."""
    words = tokenizer()
    text = hf.LlamaConfig(vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2, **_TEXT)
    pinpoints = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE], [2 * SIZE, 2 * SIZE]]
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(projection_dim=16, **_VISION),
        text_config=text,
        image_token_index=4,
        image_seq_length=16,
        image_grid_pinpoints=pinpoints,
    )
    side = {"height": SIZE, "width": SIZE}
    images = _image_processor(
        "LlavaNext", size={"shortest_edge": SIZE}, crop_size=side, image_grid_pinpoints=pinpoints
    )
    processor = _processor(
        "LlavaNextProcessor",
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    model = lively(hf.LlavaNextForConditionalGeneration(config))
    return Small(
        model, processor, "<image> what is there", "vision_tower", CLIP, "penultimate", CLIP_MEAN, CLIP_STD
    )


def paligemma() -> Small:
    """PaliGemma."""
    words = tokenizer()
    images = _image_processor("Siglip", size={"height": SIZE, "width": SIZE}, image_mean=HALF, image_std=HALF)
    images.image_seq_length = 16
    processor = _processor("PaliGemmaProcessor", images, words)
    text = hf.GemmaConfig(vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2, **_TEXT)
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(vision_use_head=False, **_VISION),
        text_config=text,
        image_token_index=4,
        projection_dim=48,
        hidden_size=48,
        vocab_size=len(words),
    )
    model = lively(hf.PaliGemmaForConditionalGeneration(config))
    return Small(
        model, processor, "<image> what is there", "vision_tower", SIGLIP, "tokens+ln_post", HALF, HALF
    )


def gemma3() -> Small:
    """Gemma 3."""
    words = tokenizer("<boi>", "<eoi>")
    for name, word in (("boi", "<boi>"), ("eoi", "<eoi>"), ("image", "<image>")):
        setattr(words, f"{name}_token", word)
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(word))
    images = _image_processor("Gemma3", size={"height": SIZE, "width": SIZE}, image_mean=HALF, image_std=HALF)
    images.image_seq_length = 4
    processor = _processor("Gemma3Processor", images, words, image_seq_length=4)
    text = hf.Gemma3TextConfig(
        **{
            "vocab_size": len(words),
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "sliding_window": 64,
        },
        query_pre_attn_scalar=12,
        **_TEXT,
    )
    ids = {f"{name}_token_index": getattr(words, f"{name}_token_id") for name in ("boi", "eoi", "image")}
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=hf.SiglipVisionConfig(vision_use_head=False, **_VISION),
        mm_tokens_per_image=4,
        **ids,
    )
    model = lively(hf.Gemma3ForConditionalGeneration(config))
    return Small(
        model,
        processor,
        "<boi> what is there",
        "vision_tower",
        SIGLIP,
        "tokens+ln_post",
        HALF,
        HALF,
        nested=True,
    )


def idefics3(kind: str = "Idefics3") -> Small:
    """Idefics3, or SmolVLM."""
    places = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    words = tokenizer("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places)
    words.fake_image_token, words.image_token, words.global_image_token = (
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
    )
    images = _image_processor(
        kind,
        size={"longest_edge": 2 * SIZE},
        max_image_size={"longest_edge": SIZE},
        image_mean=HALF,
        image_std=HALF,
    )
    more = {"video_processor": None} if kind == "SmolVLM" else {}
    processor = _processor(f"{kind}Processor", images, words, image_seq_len=4, **more)
    text = hf.LlamaConfig(vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2, **_TEXT)
    vision = getattr(hf, f"{kind}VisionConfig")(**_VISION)
    config = getattr(hf, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=4, scale_factor=2, pad_token_id=0
    )
    model = lively(getattr(hf, f"{kind}ForConditionalGeneration")(config))
    return Small(
        model,
        processor,
        "<image> what is there",
        "vision_model",
        SIGLIP,
        "tokens+ln_post",
        HALF,
        HALF,
        nested=True,
    )


def smolvlm() -> Small:
    """SmolVLM."""
    return idefics3("SmolVLM")


def qwen(kind: str) -> Small:
    """Qwen2-VL, Qwen2.5-VL or Qwen3-VL."""
    special = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    words = tokenizer(*special)
    ids = dict(
        zip(
            ("image", "video", "vision_start", "vision_end"),
            words.convert_tokens_to_ids(special),
            strict=True,
        )
    )
    pixels = {"min_pixels": SIZE * SIZE, "max_pixels": SIZE * SIZE}
    mean, std = (HALF, HALF) if kind == "Qwen3VL" else (CLIP_MEAN, CLIP_STD)
    images = _image_processor(
        "Qwen2VL", **pixels, patch_size=PATCH, merge_size=2, image_mean=mean, image_std=std
    )
    processor = _processor(f"{kind}Processor", images, words, None)
    sizes = {
        "depth": 3,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": PATCH,
    } | {
        "out_hidden_size": 48,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
    text = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **_TEXT}
    if kind == "Qwen3VL":
        vision = sizes | {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]}
        fields = QWEN3
    elif kind == "Qwen2_5_VL":
        vision = sizes | {"window_size": 2 * PATCH, "fullatt_block_indexes": [1], "hidden_act": "silu"}
        fields = QWEN2_5
    else:
        vision = sizes | {"embed_dim": WIDTH, "hidden_size": 48, "mlp_ratio": 2, "hidden_act": "quick_gelu"}
        del vision["out_hidden_size"], vision["intermediate_size"]
        fields = QWEN2
    text["rope_scaling"] = rope if kind == "Qwen3VL" else rope | {"type": "mrope"}
    config = getattr(hf, f"{kind}Config")(
        text_config=text, vision_config=vision, **{f"{name}_token_id": number for name, number in ids.items()}
    )
    model = lively(getattr(hf, f"{kind}ForConditionalGeneration")(config))
    prompt = "<|vision_start|> <|image_pad|> <|vision_end|> what is there"
    return Small(model, processor, prompt, "visual", fields, "merged", mean, std)


FAMILIES = {
    "llava": llava,
    "llava_next": llava_next,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "qwen2_vl": lambda: qwen("Qwen2VL"),
    "qwen2_5_vl": lambda: qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: qwen("Qwen3VL"),
}


def export_tower(small: Small, folder: Any, *options: str, sigma: float = 0.25) -> Any:
    """Make an engine of a model's own vision tower, by `fsfast export` with these options; returns its directory."""
    kind = small.output
    (folder / "small.toml").write_text(
        small_recipe(
            small.config,
            sigma=sigma,
            size=SIZE,
            mean=small.mean,
            std=small.std,
            output=kind.removesuffix("+ln_post"),
            ln_post=kind not in ("penultimate", "tokens"),
        )
    )
    prefix = "visual." if small.tower == "visual" else ""
    tensors = {
        f"{prefix}{name}": tensor.float().contiguous() for name, tensor in small.plain.state_dict().items()
    }
    save_file(tensors, folder / "tower.safetensors")
    engine = folder / "engine"
    command = [
        str(folder / "small.toml"),
        "--encoder",
        str(folder / "tower.safetensors"),
        "--out",
        str(engine),
        *options,
    ]
    assert main(command) == 0
    return engine

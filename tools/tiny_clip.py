"""Train the tiny CLIP of the embedded world from scratch, seeded; the command is ``tools.make_tiny_clip``.

It sees rendered scenes with captions, photo-like but for some faint drawings on light paper. About a third of the
combinations of words never occurs (``held_out``), nor do handwriting and the styles of ``DRAWN``, in which the embedded
data sets are drawn. The file keeps the token embeddings of the words in use only.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

import clip
from clip.model import CLIP
from datasets.embedded import EMBEDDED
from datasets.embedded.render import COLOURS, DIGITS, SHAPES, SIZE, TEXTURES, Scene, render
from datasets.embedded.scenes import COUNTS, PLURALS, RELATIONS, group, numeral, pair, pick, single, surface

SIZES = dict(
    embed_dim=128,
    image_resolution=32,
    vision_layers=3,
    vision_width=128,
    vision_patch_size=8,
    vision_heads=4,
    context_length=77,
    transformer_width=64,
    transformer_heads=2,
    transformer_layers=3,
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
CAPTIONS_PER_IMAGE = 4

ALL_TEMPLATES = [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
DRAWN = ("drawing", "sketch", "art ", "painting", "cartoon", "doodle", "rendering", "graffiti", "embroider")
DRAWING_TEMPLATES = [text for text in ALL_TEMPLATES if any(word in text for word in DRAWN)]
PHOTO_TEMPLATES = [text for text in ALL_TEMPLATES if text not in DRAWING_TEMPLATES]
PLAIN = {
    "photo": ("a photo of a {}.", "a photo of a {}.", "a photo of the {}.", "a {}.", "{}", "a picture of a {}."),
    "drawing": ("a drawing of a {}.", "a drawing of a {}.", "a drawing of the {}.", "a sketch of a {}."),
}
# Words that nobody's caption has, but a user's template or class name may.
SPARE_WORDS = (
    "X . , ! ? ' - : ; a an the this that these some of in on at by with and or not no to from for is are there it its "
    "one two three four five six seven eight nine ten zero first second third 0 1 2 3 4 5 6 7 8 9 "
    "b c d e f g h i j k l m n o p q r s t u v w x y z "
    "type kind pet flower aircraft food texture pattern surface centered satellite person doing animal car dog cat "
    "image picture photograph scene object thing shape colour color figure symbol sign number digit letter handwritten "
    "written printed chalk board pencil paper ink outline light dark bright dim noisy blurry grainy rotated hidden "
    "small large big tiny huge thin thick round straight black gray grey gold silver violet magenta "
    "above below left right inside outside beside near under over between many few several "
    "red orange yellow green cyan blue purple pink brown white solid plain striped dotted checkered wavy speckled"
)


def held_out(*choices: tuple[str, dict]) -> bool:
    """Whether a combination of words, each with its dictionary, is kept from training: a third of them is."""
    return sum(list(words).index(word) for word, words in choices) % 3 == 0


def mention(rng: np.random.Generator, colour: str, texture: str, noun: str) -> str:
    """Name a thing by all its attributes, or by some."""
    if texture == "solid" and rng.random() < 0.4:
        texture = ""
    dropped = rng.random()
    words = ("" if dropped < 0.35 else colour, "" if 0.25 < dropped < 0.5 else texture, noun)
    return " ".join(word for word in words if word)


def template(rng: np.random.Generator, style: str) -> str:
    """A caption's frame; what it says of the style is true, what else it says is noise."""
    if rng.random() < 0.6:
        return str(rng.choice(PLAIN[style]))
    return str(rng.choice(PHOTO_TEMPLATES if style == "photo" else DRAWING_TEMPLATES))


def one_thing(rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """A single thing, photographed or drawn."""
    while True:
        colour, texture, shape = (pick(rng, words) for words in (COLOURS, TEXTURES, SHAPES))
        if not held_out((colour, COLOURS), (texture, TEXTURES), (shape, SHAPES)):
            break
    style = "drawing" if rng.random() < 0.15 else "photo"
    scene = Scene((single(colour, texture, shape, rng),), style, noise=rng.uniform(0.03, 0.1))
    names = [mention(rng, colour, texture, shape) for _ in range(CAPTIONS_PER_IMAGE)]
    return scene, [template(rng, style).format(name) for name in names]


def one_surface(rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """A texture that fills the picture."""
    while True:
        colour, texture = pick(rng, COLOURS), pick(rng, TEXTURES)
        if not held_out((colour, COLOURS), (texture, TEXTURES)):
            break
    frames = ("{} texture.", "{} texture.", "a {} texture.", "a photo of a {} texture.", "a {} surface.", "{}")
    names = [mention(rng, colour, texture, "").strip() or colour for _ in range(CAPTIONS_PER_IMAGE)]
    return Scene((surface(colour, texture),)), [str(rng.choice(frames)).format(name) for name in names]


def several_things(rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """A counted group."""
    while True:
        count, colour, shape = pick(rng, COUNTS), pick(rng, COLOURS), pick(rng, SHAPES)
        if not held_out((count, COUNTS), (colour, COLOURS), (shape, SHAPES)):
            break
    frames = ("a photo of {}.", "{}", "a photo of the {}.", "there are {}.")
    names = [f"{count} {mention(rng, colour, '', PLURALS[shape])}" for _ in range(CAPTIONS_PER_IMAGE)]
    return Scene(group(COUNTS[count], colour, shape, rng)), [str(rng.choice(frames)).format(n) for n in names]


def two_things(rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """Two things and their relation."""
    while True:
        first, second, relation = pick(rng, SHAPES), pick(rng, SHAPES), str(rng.choice(RELATIONS))
        places = dict.fromkeys(RELATIONS)
        if first != second and not held_out((first, SHAPES), (second, SHAPES), (relation, places)):
            break
    colours = pick(rng, COLOURS), pick(rng, COLOURS)
    scene = Scene(pair(first, relation, second, colours, rng))
    bare = f"{first} {relation} a {second}"
    full = f"{colours[0]} {first} {relation} a {colours[1]} {second}"
    return scene, [
        template(rng, "photo").format(bare if rng.random() < 0.7 else full) for _ in range(CAPTIONS_PER_IMAGE)
    ]


def printed_digit(rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """A digit in print."""
    digit = str(rng.choice(DIGITS))
    thing = numeral(pick(rng, COLOURS), digit, rng)
    frames = ("a photo of the digit {}.", "the digit {}.", "the number {}.", "a photo of the number {}.", "{}")
    return Scene((thing,)), [str(rng.choice(frames)).format(digit) for _ in range(CAPTIONS_PER_IMAGE)]


KINDS = {one_thing: 0.48, one_surface: 0.07, several_things: 0.15, two_things: 0.19, printed_digit: 0.11}


def random_scene(rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """A scene of any kind, with captions that are true of it."""
    return list(KINDS)[rng.choice(len(KINDS), p=list(KINDS.values()))](rng)


@dataclass
class Corpus:
    """N pictures (N, H, W, 3) with several captions each, (N, K) rows of the T distinct ones, (T, 77) ids.

    The ids count the V tokens in use, whose ids in CLIP's vocabulary are ``vocabulary`` (V,), ascending: so the end of
    text stays the largest, as CLIP expects.
    """

    images: Tensor
    captions: Tensor
    texts: Tensor
    vocabulary: Tensor


def make_corpus(seed: int, size: int) -> Corpus:
    """Render and describe the training pictures."""
    rng = np.random.default_rng(seed)
    images = torch.empty((size, SIZE, SIZE, 3), dtype=torch.uint8)
    row_of: dict[str, int] = {}
    captions = torch.empty((size, CAPTIONS_PER_IMAGE), dtype=torch.long)
    for i in tqdm(range(size), "rendering", unit="picture"):
        scene, described = random_scene(rng)
        images[i] = torch.from_numpy(render(scene, rng))
        captions[i] = torch.tensor([row_of.setdefault(text, len(row_of)) for text in described])
    tokens = clip.tokenize(list(row_of))
    vocabulary = torch.cat([tokens.unique(), clip.tokenize(other_texts()).unique()]).unique()
    return Corpus(images, captions, torch.searchsorted(vocabulary, tokens), vocabulary)


def other_texts() -> list[str]:
    """What the tokenizer must know beyond the captions: class names, templates, spare words."""
    names = [" ".join(words) for dataset in EMBEDDED for words in dataset.classes()]
    return [*names, *(dataset.template for dataset in EMBEDDED), *ALL_TEMPLATES, *SPARE_WORDS.split()]


def normalise(images: Tensor) -> Tensor:
    """(B, H, W, 3) bytes to CLIP's (B, 3, H, W)."""
    return ((images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def contrastive_loss(model: CLIP, images: Tensor, texts: Tensor, match: Tensor) -> Tensor:
    """CLIP's symmetric loss for B images and the T distinct captions among theirs; match (B,) is each image's caption.

    An image has one right caption; a caption's probability is spread evenly over its images.
    """
    image_features = F.normalize(model.encode_image(images), dim=-1)
    text_features = F.normalize(model.encode_text(texts), dim=-1)
    logits = model.logit_scale.exp() * image_features @ text_features.t()
    owners = F.one_hot(match, len(texts)).t().float()
    return (F.cross_entropy(logits, match) + F.cross_entropy(logits.t(), owners / owners.sum(1, keepdim=True))) / 2


def train(model: CLIP, corpus: Corpus, steps: int, batch_size: int, lr: float) -> None:
    """AdamW with a short warm-up, then a cosine; weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1, (step + 1) / 200) * (1 + np.cos(np.pi * step / steps)) / 2
    )
    bar = tqdm(range(steps), "training", unit="step", mininterval=1)
    for step in bar:
        batch = torch.randint(len(corpus.images), (batch_size,))
        wanted = corpus.captions[batch, torch.randint(CAPTIONS_PER_IMAGE, (batch_size,))]
        distinct, match = wanted.unique(return_inverse=True)
        loss = contrastive_loss(model, normalise(corpus.images[batch]), corpus.texts[distinct], match)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        model.logit_scale.data.clamp_(max=np.log(100))
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def save(model: CLIP, vocabulary: Tensor, path: Path) -> None:
    """Half precision, OpenAI's names; ``token_embedding.ids`` says which tokens the rows of the embedding are."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    tensors["token_embedding.ids"] = vocabulary.to(torch.int32)
    metadata = {name: str(SIZES[name]) for name in ("vision_heads", "transformer_heads")}
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    save_file(tensors, scratch, metadata={"token_embedding": "rows of token_embedding.ids only", **metadata})
    os.replace(scratch, path)


def make(path: Path, images: int, steps: int, batch_size: int, lr: float, seed: int) -> None:
    """Render, train, save."""
    torch.manual_seed(seed)
    corpus = make_corpus(seed, images)
    model = CLIP(**SIZES, vocab_size=len(corpus.vocabulary))
    train(model, corpus, steps, batch_size, lr)
    save(model, corpus.vocabulary, path)

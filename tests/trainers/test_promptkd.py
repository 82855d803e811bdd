"""PromptKD: its loss, its teachers, and the classes that it learns and classifies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.clip.small import difference
from trainers import load_classifier
from trainers.teacher import distillation

from .plain import kl_divergence, unit
from .world import CLASSNAMES, Make, batch, losses, randomise, save_clip, state


def rows(*values: list[float]) -> Tensor:
    return unit(torch.tensor(values, dtype=torch.float64))


def test_the_published_term() -> None:
    """1000 KL / (B C) of the logits 10 v t and 10 v0 t0: 87.381..., computed apart."""
    student = 10 * rows([1, 2, 2], [2, -1, 2]) @ rows([1, 0, 1], [0, 1, 1], [1, 1, 0]).t()
    teacher = 10 * rows([1, 2, 1], [2, 0, 1]) @ rows([1, 0, 0.5], [0, 1, 0.5], [1, 0.5, 0]).t()
    assert float(1000 * distillation(student, teacher, 1.0) / 3) == pytest.approx(87.38129818925593, rel=1e-12)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another backbone: resolution, width and joint width."""
    sizes = {"image_resolution": 48, "vision_patch_size": 16, "embed_dim": 96}
    return save_clip(tmp_path_factory.mktemp("wide"), "wide", **sizes)


@pytest.fixture
def run(wide: str, make: Make, tmp_path: Path) -> str:
    """The folder of a run of PromptSRC on the base classes with that backbone."""
    few = ("DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", 1, "OUTPUT_DIR", str(tmp_path / "teacher"))
    trainer = make("PromptSRC", None, "MODEL.BACKBONE.PATH", wide, "INPUT.SIZE", (48, 48), *few)
    randomise(trainer)
    trainer.train()
    return trainer.output_dir


def test_a_run_teaches(run: str, make: Make, tmp_path: Path) -> None:
    """Its soft labels and its class features, of all classes in the loss and of those of now in a test."""
    base = ("DATASET.SUBSAMPLE_CLASSES", "base", "OUTPUT_DIR", str(tmp_path / "student"))
    trainer = make("PromptKD", {"TEACHER.RUN": run, "TEMPERATURE": 2.0}, *base)
    model, (image, label) = randomise(trainer).model, batch()
    teacher = load_classifier(run, CLASSNAMES)
    resized = torch.nn.functional.interpolate(image, size=(48, 48), mode="bicubic", antialias=True)
    with torch.no_grad():
        text, soft = teacher.text_features, teacher(resized)
        assert text.shape == (len(CLASSNAMES), 96)
        student = model.features(image)[0]
        expected = 1000 * kl_divergence(soft, model.clip.logit_scale.exp() * student @ text.t(), 2.0) / len(CLASSNAMES)
        assert torch.isclose(losses(trainer, image, label - 9)["kd_loss"], expected, rtol=1e-4)
        assert difference(model(image), model.clip.logit_scale.exp() * student @ text[:3].t()) < 1e-5
    trainer.train()
    again = make("PromptKD", {"TEACHER.RUN": run}, "DATASET.SUBSAMPLE_CLASSES", "new")
    again.load_model(trainer.output_dir)
    found = load_classifier(trainer.output_dir, CLASSNAMES[3:])  # neither has a training of its own
    with torch.no_grad():
        expected = trainer.model.eval().features(image)[0] @ text[3:].t() * model.clip.logit_scale.exp()
        for classifier in (again.model.eval(), found):
            assert difference(classifier(image), expected) < 1e-5


def test_a_teacher_that_is_not_there_or_does_not_fit(run: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TEACHER\.RUN has a backbone of its own"):
        make("PromptKD", {"TEACHER.RUN": run, "TEACHER.BACKBONE": "tiny"})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make("PromptKD", {"TEACHER.RUN": str(tmp_path / "nowhere")})
    make("CoCoOp", None, "OUTPUT_DIR", str(tmp_path / "conditional"), "OPTIM.MAX_EPOCH", 1).train()
    with pytest.raises(ValueError, match="text features depend on the image"):
        make("PromptKD", {"TEACHER.RUN": str(tmp_path / "conditional")})


def test_any_method_may_teach_another(run: str, make: Make) -> None:
    """RPP distils from what TEACHER says, too, over its sampled classes."""
    trainer = make("RPP", {"TEACHER.RUN": run, "UPDATE_CLASS_NUM": 0})
    image, label = batch()
    teacher = load_classifier(run, CLASSNAMES)
    resized = torch.nn.functional.interpolate(image, size=(48, 48), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = kl_divergence(teacher(resized), trainer.model(image), 1.0)
        assert torch.isclose(losses(trainer, image, label)["kd_loss"], expected, rtol=1e-4)
        classes, _ = trainer.model.subset(torch.tensor([4, 1]))
        found = trainer.model.method.teacher.logits(image, classes)
        assert difference(found, teacher(resized)[:, [4, 1]]) < 1e-5


def test_the_authors_projector(make: Make, tmp_path: Path) -> None:
    """1x1 convolutions, the first with a bias, to another width: the same function in evaluation."""
    trainer, image = randomise(make("PromptKD")), batch()[0]
    width, wanted = trainer.model.clip.embed_dim, 96
    conv = torch.nn.Sequential(
        torch.nn.Conv2d(width, wanted, 1),
        torch.nn.BatchNorm2d(wanted),
        torch.nn.ReLU(),
        torch.nn.Conv2d(wanted, wanted, 1),
    )
    with torch.no_grad():
        conv[1].running_mean.normal_()
        conv[1].running_var.uniform_(0.5, 2)
    prompts = {key: value for key, value in state(trainer).items() if not key.startswith("VPT_image_trans")}
    theirs = {f"VPT_image_trans.conv1.{key}": value for key, value in conv.state_dict().items()}
    path = tmp_path / "VLPromptLearner" / "model.pth.tar-5"
    path.parent.mkdir()
    torch.save({"state_dict": prompts | theirs, "epoch": 5}, path)
    trainer.load_model(str(tmp_path), epoch=5)
    method = trainer.model.eval().method
    with torch.no_grad():
        raw = trainer.model.clip.encode_image(image, method.prompts().vision)
        assert difference(method.projector(raw), conv.eval()(raw[:, :, None, None])[:, :, 0, 0]) < 1e-5


def test_a_step_is_one_pass(make: Make) -> None:
    """The projector normalises over the images of a step."""
    with pytest.raises(ValueError, match="PromptKD makes its steps in one process and pass"):
        make("PromptKD", None, "OPTIM.ACCUM_STEPS", 2)

import os
import pickle
import resource
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn

from dassl.utils import (
    count_num_param,
    init_network_weights,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    resume_from_checkpoint,
    save_checkpoint,
)
from dassl.utils.safe_load import Placeholder


def trained(steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_save_writes_the_file_and_its_pointer(tmp_path, capsys):
    model, optimizer = trained()
    weights = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    state = {"state_dict": weights, "epoch": 3, "optimizer": optimizer.state_dict(), "scheduler": None}
    save_checkpoint(state, str(tmp_path / "m"), is_best=True)
    path = tmp_path / "m" / "model.pth.tar-3"
    assert sorted(os.listdir(path.parent)) == ["checkpoint", "model-best.pth.tar", "model.pth.tar-3"]
    assert (path.parent / "checkpoint").read_text() == "model.pth.tar-3\n"
    assert (path.parent / "model-best.pth.tar").read_bytes() == path.read_bytes()
    assert list(torch.load(path, weights_only=True)["state_dict"]) == ["weight", "bias"]
    assert capsys.readouterr().out.splitlines() == [
        f"Checkpoint saved to {path}",
        f'Best checkpoint saved to "{path.parent}/model-best.pth.tar"',
    ]


def test_resume_restores_model_and_optimizer(tmp_path, capsys):
    model, optimizer = trained()
    state = {"state_dict": model.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict()}
    save_checkpoint(state, str(tmp_path), model_name="named")
    fresh, fresh_optimizer = trained(steps=0)
    assert resume_from_checkpoint(str(tmp_path), fresh, fresh_optimizer) == 3
    assert torch.equal(fresh.weight, model.weight)
    buffers = fresh_optimizer.state_dict()["state"], optimizer.state_dict()["state"]
    assert torch.equal(buffers[0][0]["momentum_buffer"], buffers[1][0]["momentum_buffer"])
    assert capsys.readouterr().out.splitlines()[-4:] == [
        f'Loading checkpoint from "{tmp_path}/named"',
        "Loaded model weights",
        "Loaded optimizer",
        "Previous epoch: 3",
    ]
    with pytest.raises(ValueError, match="is not a checkpoint of this model"):
        resume_from_checkpoint(str(tmp_path), nn.Linear(3, 5))


class _RunsCode:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(tmp_path, zipped):
    """The weights beside it are still read."""
    model, _ = trained()
    trap = tmp_path / "trap"
    path = str(tmp_path / "evil")
    state = {"state_dict": model.state_dict(), "epoch": 3, "extra": _RunsCode(f"touch {trap}")}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(path)
    assert not trap.exists()
    assert isinstance(loaded["extra"], Placeholder)
    assert torch.equal(loaded["state_dict"]["weight"], model.weight)
    torch.load(path, weights_only=False)  # the payload is real: an unrestricted reader runs it
    assert trap.exists()


def test_a_plain_pickle_is_not_run_either(tmp_path):
    trap = tmp_path / "trap"
    path = tmp_path / "evil"
    path.write_bytes(pickle.dumps(_RunsCode(f"touch {trap}")))
    with pytest.raises(ValueError, match="evil"):
        load_checkpoint(str(path))
    assert not trap.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_optimizer_and_scheduler_objects_become_placeholders(tmp_path, zipped):
    """The form of the family's own files: a warm-up scheduler state that holds its pickled successor."""
    model, optimizer = trained()
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    state = {
        "state_dict": model.state_dict(),
        "epoch": 3,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"warmup_epoch": 1, "last_epoch": 3, "successor": successor, "base_lrs": [0.1]},
        "val_result": None,
        "kept": {"half": torch.ones(2).half(), "parameter": nn.Parameter(torch.ones(1)), "size": torch.Size([2])},
    }
    path = str(tmp_path / "model.pth.tar-3")
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    loaded = load_checkpoint(path)
    assert isinstance(loaded["scheduler"].pop("successor"), Placeholder)
    assert loaded["scheduler"] == {"warmup_epoch": 1, "last_epoch": 3, "base_lrs": [0.1]}
    assert torch.equal(loaded["state_dict"]["bias"], model.bias)
    momentum = loaded["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, optimizer.state_dict()["state"][0]["momentum_buffer"])
    assert loaded["kept"]["half"].dtype == torch.half and loaded["kept"]["size"] == torch.Size([2])


def test_damaged_and_foreign_files_are_named(tmp_path):
    model, _ = trained()
    path = tmp_path / "cut"
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut.*truncated"):
        load_checkpoint(str(path))
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        load_checkpoint(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r'File is not found at ".*absent"'):
        load_checkpoint(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="None"):
        load_checkpoint(None)


def test_a_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("version", "data.pkl", "constants.pkl"):
            archive.writestr(f"script/{name}", b"3")
    with pytest.raises(ValueError, match="TorchScript"):
        load_checkpoint(str(path))


def test_a_small_file_that_unpacks_to_much_is_not_read(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"state_dict": {"weight": torch.zeros(20 << 20)}, "epoch": 1}, tmp_path / "honest.pt")
    with zipfile.ZipFile(tmp_path / "honest.pt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert os.path.getsize(path) < 100_000
    with pytest.raises(ValueError, match=r"bomb\.pt\" would unpack from [\d,]+ to 83,[\d,]+ bytes"):
        load_checkpoint(str(path))
    assert len(load_checkpoint(str(tmp_path / "honest.pt"))["state_dict"]["weight"]) == 20 << 20


def test_an_index_in_a_pickle_costs_no_memory(tmp_path):
    """``LONG_BINPUT 2^25`` in a few bytes; the C unpickler takes 16 bytes for every index below."""
    path = tmp_path / "index.pt"
    path.write_bytes(b"\x80\x02}r\x00\x00\x00\x02.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"index\.pt"):
        load_checkpoint(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000 * (
        1024 if sys.platform == "darwin" else 1
    )


def spoil(path, way: str) -> None:
    """Damage a file as disks, transfers and editors do."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:middle],
            "flipped": content[:middle]
            + bytes(b ^ 0xFF for b in content[middle : middle + 64])
            + content[middle + 64 :],
            "flipped at the end": content[:-60] + bytes(b ^ 0xFF for b in content[-60:]),
            "text": "Größe".encode("latin-1"),
            "a pickle's opcodes": b"\x80\x02je\x00\x00\x00.",
            "a tar file": b"ustar".rjust(262, b"\0").ljust(10240, b"\0"),
            "an empty zip": b"PK\5\6" + bytes(18),
            "half a zip": b"PK\3\4" + bytes(100),
        }[way]
    )


@pytest.mark.parametrize(
    "way",
    [
        *("empty", "cut", "flipped", "flipped at the end", "text"),
        *("a pickle's opcodes", "a tar file", "an empty zip", "half a zip"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_damage_of_any_kind_is_told_in_one_line_with_the_file(tmp_path, way, zipped):
    model, optimizer = trained()
    state = {"state_dict": model.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict()}
    path = tmp_path / "model.pth.tar-3"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    spoil(path, way)
    try:
        checkpoint = load_checkpoint(str(path))
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:  # numbers may have changed; torch does not check them
        assert way.startswith("flipped") and checkpoint.keys() == state.keys()


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"epoch": 3},
        {"state_dict": [1, 2], "epoch": 3},
        {"state_dict": {"weight": 1, "bias": 2}, "epoch": 3},
        {"state_dict": trained()[0].state_dict()},
        {"state_dict": trained()[0].state_dict(), "epoch": "three"},
        {"state_dict": trained()[0].state_dict(), "epoch": 3, "optimizer": {"state": 4}},
        {"state_dict": trained()[0].state_dict(), "epoch": 3, "optimizer": [1]},
    ],
)
def test_checkpoints_of_another_form_are_told_with_the_file(tmp_path, content):
    torch.save(content, tmp_path / "model.pth.tar-3")
    (tmp_path / "checkpoint").write_text("model.pth.tar-3\n")
    with pytest.raises(ValueError, match=r"model\.pth\.tar-3") as caught:
        resume_from_checkpoint(str(tmp_path), *trained(0))
    assert "\n" not in str(caught.value)


def test_pretrained_weights_are_matched_by_name_and_shape(tmp_path, capsys):
    torch.save(
        {"module.weight": torch.full((2, 3), 5.0), "bias": torch.ones(7), "other": torch.ones(1)}, tmp_path / "w"
    )
    model, _ = trained(0)
    bias = model.bias.clone()
    load_pretrained_weights(model, str(tmp_path / "w"))
    assert (model.weight == 5).all() and torch.equal(model.bias, bias)
    assert "['bias', 'other']" in capsys.readouterr().out
    torch.save({"x": torch.ones(1)}, tmp_path / "w")
    with pytest.warns(UserWarning, match="Cannot load"):
        load_pretrained_weights(model, str(tmp_path / "w"))


def test_counting_opening_and_initialising():
    model = nn.Sequential(OrderedDict(a=nn.Conv2d(2, 3, 1), b=nn.BatchNorm2d(3), c=nn.Linear(3, 4)))
    assert count_num_param(model) == 2 * 3 + 3 + 6 + 12 + 4
    assert count_num_param(params=model.c.parameters()) == 16
    assert count_num_param(params=[{"params": list(model.c.parameters())}]) == 16
    with pytest.raises(ValueError, match="needs a model"):
        count_num_param()
    open_specified_layers(model, "c")
    assert [param.requires_grad for param in model.parameters()] == [False] * 4 + [True] * 2
    assert not model.a.training and model.c.training
    with pytest.raises(ValueError, match=r"\['d'\]"):
        open_specified_layers(model, ["d"])
    open_all_layers(model)
    assert all(param.requires_grad for param in model.parameters())
    init_network_weights(model, "orthogonal", gain=1.0)
    assert torch.allclose(model.c.weight.T @ model.c.weight, torch.eye(3), atol=1e-6)
    assert (model.c.bias == 0).all() and (model.b.weight == 1).all()
    with pytest.raises(ValueError, match="xavier"):
        init_network_weights(model, "zeros")

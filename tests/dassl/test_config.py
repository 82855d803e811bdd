import re
from pathlib import Path

import pytest
import yaml

import dassl
from dassl.compat import UNREAD
from dassl.config import (
    clean_cfg,
    flatten_cfg,
    get_cfg_default,
    load_yaml,
    merge_from_file,
    merge_from_list,
    solve_batch,
)


def test_defaults_are_a_fresh_copy_and_survive_a_dump():
    cfg = get_cfg_default()
    dumped = yaml.safe_load(cfg.dump())
    cfg.OPTIM.LR = 7.0
    fresh = get_cfg_default()
    assert fresh.OPTIM.LR == 0.0003
    fresh.merge_from_other_cfg(type(fresh)(dumped))
    assert fresh == get_cfg_default()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.SIZE", (224, 224)),
        ("INPUT.RRCROP_SCALE", (0.08, 1.0)),
        ("OPTIM.WEIGHT_DECAY", 0.0005),
        ("OPTIM.WARMUP_RECOUNT", True),
        ("OPTIM.STEPSIZE", (-1,)),
        ("TRAINER.CDAC.CLASS_LR_MULTI", 10),
        ("TRAINER.FIXMATCH.STRONG_TRANSFORMS", ()),
        ("DATASET.SUBSAMPLE_CLASSES", "all"),
        ("MODEL.TEXT_MEMORY_GB", 4.0),
    ],
)
def test_default_values(key, value):
    assert flatten_cfg(get_cfg_default())[key] == value


def test_list_values_are_parsed_as_literals():
    cfg = get_cfg_default()
    merge_from_list(cfg, ["INPUT.SIZE", "[32,48]", "OPTIM.LR", "1e-5", "MODEL.BACKBONE.NAME", "ViT-B/16", "SEED", "0"])
    assert (cfg.INPUT.SIZE, cfg.OPTIM.LR, cfg.MODEL.BACKBONE.NAME, cfg.SEED) == ((32, 48), 1e-5, "ViT-B/16", 0)


@pytest.mark.parametrize("value", ["1", 1])
def test_a_whole_number_serves_for_a_float(tmp_path, value):
    """In words and in files; an option that counts stays an int, and a float is none."""
    cfg, path = get_cfg_default(), tmp_path / "method.yaml"
    merge_from_list(cfg, ["OPTIM.LR", value, "OPTIM.MAX_EPOCH", value])
    path.write_text(yaml.safe_dump({"TRAINER": {"MME": {"LMDA": value}}, "MODEL": {"TEXT_MEMORY_GB": value}}))
    merge_from_file(cfg, str(path))
    found = (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.TRAINER.MME.LMDA, cfg.MODEL.TEXT_MEMORY_GB)
    assert [(type(number), number) for number in found] == [(float, 1), (int, 1), (float, 1), (float, 1)]
    with pytest.raises(ValueError, match=r"OPTIM\.MAX_EPOCH"):
        merge_from_list(cfg, ["OPTIM.MAX_EPOCH", "1.0"])


@pytest.mark.parametrize(
    ("opts", "error", "words"),
    [
        (["OPTIM.LRATE", "1.0"], KeyError, ["OPTIM.LRATE", "OPTIM.LR"]),
        (["OPTIM.LR.X", "1.0"], KeyError, ["OPTIM.LR.X"]),
        (["OPTIM.LR", "True"], ValueError, ["OPTIM.LR", "float", "bool"]),
        (["TEST.NO_TEST", "1"], ValueError, ["TEST.NO_TEST"]),
        (["OPTIM.LR"], ValueError, ["pairs", "OPTIM.LR"]),
    ],
)
def test_a_refused_option_names_its_key_and_changes_nothing(opts, error, words):
    cfg = get_cfg_default()
    with pytest.raises(error) as caught:
        merge_from_list(cfg, ["SEED", "3", *opts])
    assert all(word in str(caught.value) for word in words)
    assert cfg == get_cfg_default()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("OPTIM:\n  LEARNING_RATE: 0.1\n", KeyError, ["OPTIM.LEARNING_RATE", "method.yaml"]),
        ("OPTIM:\n  MAX_EPOCH: 5.0\n", ValueError, ["OPTIM.MAX_EPOCH", "method.yaml"]),
        ("OPTIM: 3\n", ValueError, ["OPTIM", "method.yaml"]),
        ("OPTIM: [\n", ValueError, ["method.yaml", "YAML"]),
        ("just words\n", ValueError, ["method.yaml"]),
    ],
)
def test_a_refused_file_is_named(tmp_path, text, error, words):
    path = tmp_path / "method.yaml"
    path.write_text(text)
    with pytest.raises(error) as caught:
        merge_from_file(get_cfg_default(), str(path))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "content",
    [
        b"OPTIM:\n  LR:",  # cut
        "# Grö\u00dfe\nSEED: 1".encode("latin-1"),
        "SEED: 1".encode("utf-16"),
        *(b"SEED: 2001-99-99", b"SEED: 2001-01-01", b"OPTIM: 3", b"OPTIM:", b"\0\1\2", bytes(range(256))),
        *(b"[1]", b"text", b"SEED: [1", b"{[1]: 2}", b"SEED: !!python/object/apply:os.getcwd []", b"[" * 3000),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    cfg, path = get_cfg_default(), tmp_path / "method.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"method\.yaml") as caught:
        merge_from_file(cfg, str(path))
    assert "\n" not in str(caught.value)
    assert cfg == get_cfg_default()


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    cfg = get_cfg_default()
    (tmp_path / "method.yaml").write_text("SEED: 7", encoding="utf-8-sig")
    merge_from_file(cfg, str(tmp_path / "method.yaml"))
    assert cfg.SEED == 7


def test_a_file_merges_with_yaml_strings_read_as_literals(tmp_path):
    path = tmp_path / "method.yaml"
    path.write_text("INPUT:\n  SIZE: (32, 32)\nOPTIM:\n  WARMUP_CONS_LR: 1e-6\n")
    cfg = get_cfg_default()
    merge_from_file(cfg, str(path))
    assert cfg.INPUT.SIZE == (32, 32) and cfg.OPTIM.WARMUP_CONS_LR == 1e-6
    path.write_text("")
    merge_from_file(cfg, str(path))
    assert cfg.INPUT.SIZE == (32, 32)


def test_clean_cfg_keeps_the_trainers_own_section():
    cfg = get_cfg_default()
    clean_cfg(cfg, "FixMatch")
    assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


def write_chain(folder, **texts):
    """Files by stem, in ``folder`` or, for a stem ``base...``, in ``folder/_base``."""
    (folder / "_base").mkdir(exist_ok=True)
    for stem, text in texts.items():
        (folder / ("_base" if stem.startswith("base") else "") / f"{stem}.yaml").write_text(text)
    return folder / "method.yaml"


def test_a_file_differs_from_its_base(tmp_path, monkeypatch):
    """Bases are relative to the file that names them, wherever a run starts; the nearer file wins, key by key."""
    path = write_chain(
        tmp_path,
        method="_BASE_: _base/base.yaml\nOPTIM:\n  LR: 0.3\n",
        base="_BASE_: base_of_base.yaml\nOPTIM:\n  LR: 0.2\n  MAX_EPOCH: 20\nINPUT:\n  SIZE: (32, 32)\n",
        base_of_base="OPTIM: {LR: 0.1, MAX_EPOCH: 10, NAME: sgd}\n",
    )
    monkeypatch.chdir(tmp_path / "_base")
    expected = {"OPTIM": {"LR": 0.3, "MAX_EPOCH": 20, "NAME": "sgd"}, "INPUT": {"SIZE": "(32, 32)"}}
    for named in (path, "../method.yaml"):
        cfg = get_cfg_default()
        merge_from_file(cfg, str(named))
        assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.NAME, cfg.INPUT.SIZE) == (0.3, 20, "sgd", (32, 32))
        assert "_BASE_" not in cfg.dump()
        assert load_yaml(named) == expected
    path.write_text(f"_BASE_: {tmp_path / '_base' / 'base_of_base.yaml'}\n")
    assert load_yaml(path) == {"OPTIM": {"LR": 0.1, "MAX_EPOCH": 10, "NAME": "sgd"}}


CHAIN = r'base\.yaml", the _BASE_ of "\S+method\.yaml"'


@pytest.mark.parametrize(
    ("base", "error", "pattern"),
    [
        (None, FileNotFoundError, f"{CHAIN}: No such file"),
        ("_BASE_: ../method.yaml\n", ValueError, r'method\.yaml", the _BASE_ of "\S+' + CHAIN + ": .* its own base"),
        ("_BASE_: [a.yaml]\n", ValueError, r"_BASE_ must be .* but is \['a.yaml'\] in \S+" + CHAIN),
        ("_BASE_:\n", ValueError, r"_BASE_ must be .* but is None in \S+" + CHAIN),
        ("OPTIM: {LEARNING_RATE: 0.1}\n", KeyError, r"OPTIM\.LEARNING_RATE in \S+" + CHAIN + "; nearest"),
        ("OPTIM: {MAX_EPOCH: 5.0}\n", ValueError, r"OPTIM\.MAX_EPOCH.*" + CHAIN),
        ("OPTIM: {_BASE_: a.yaml}\n", KeyError, r"OPTIM\._BASE_ in"),
        ("just words\n", ValueError, CHAIN + " must hold"),
    ],
    ids=["missing", "cycle", "a list", "nothing", "unknown key", "other type", "inside a section", "no mapping"],
)
def test_a_refused_base_is_named_with_the_file_that_asks_for_it(tmp_path, base, error, pattern):
    texts = {} if base is None else {"base": base}
    path = write_chain(tmp_path, method="_BASE_: _base/base.yaml\nOPTIM: {LR: 0.3, MAX_EPOCH: 7}\n", **texts)
    cfg = get_cfg_default()
    with pytest.raises(error, match=pattern) as caught:
        merge_from_file(cfg, str(path))
    assert "\n" not in str(caught.value) and cfg == get_cfg_default()


def test_every_leaf_is_read_or_kept_for_other_code_only():
    """``dassl.compat`` holds just those that nothing of ours reads."""
    root = Path(dassl.__file__).parent.parent
    packages = ("dassl", "datasets", "trainers")
    sources = [root / "train.py", *(path for name in packages for path in (root / name).rglob("*.py"))]
    skipped = {"defaults.py", "compat.py"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name not in skipped)
    words = set(re.findall(r"\w+", text))
    leaves = flatten_cfg(get_cfg_default())
    unread = {key for key in leaves if key.rpartition(".")[2] not in words}
    of_others = {f"MODEL.HEAD.{name}" for name in ("BN", "DROPOUT", "NAME")}
    of_others |= {"TRAINER.DDAIG.ALPHA", "TRAINER.DOMAINMIX.ALPHA", "TRAINER.DOMAINMIX.BETA"}
    assert unread | of_others == UNREAD.keys()  # these words are read, but of other sections


@pytest.mark.parametrize(
    ("ranks", "given", "solved"),
    [
        (1, (32, 0, 0), (32, 1, 32)),
        (2, (32, 0, 0), (32, 1, 64)),
        (2, (32, 4, 0), (32, 4, 256)),
        (2, (32, 0, 256), (32, 4, 256)),
        (2, (0, 0, 256), (128, 1, 256)),
        (2, (0, 4, 256), (32, 4, 256)),
        (2, (32, 4, 256), (32, 4, 256)),
        (3, (32, 0, 256), "has no solution"),
        (2, (32, 2, 256), r"256 = processes \(2\) x BATCH_SIZE \(32\) x ACCUM_STEPS \(2\)"),
        (2, (32, 0, 32), "number of processes"),
        (1, (0, 0, 0), "BATCH_SIZE must be at least 1, but is 0"),
        (1, (8, -1, 0), "0 or more, but are -1 and 0"),
    ],
)
def test_the_images_of_a_step_are_solved_for(ranks, given, solved):
    cfg = get_cfg_default()
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.OPTIM.ACCUM_STEPS, cfg.OPTIM.GLOBAL_BATCH = given
    if isinstance(solved, str):
        with pytest.raises(ValueError, match=solved):
            solve_batch(cfg, ranks)
        return
    found = solve_batch(cfg, ranks)
    assert solved == (found.DATALOADER.TRAIN_X.BATCH_SIZE, found.OPTIM.ACCUM_STEPS, found.OPTIM.GLOBAL_BATCH)
    assert solve_batch(found, ranks) == found and given[2] == cfg.OPTIM.GLOBAL_BATCH

"""Write down what is found on this machine, to be expected on another."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from clip.weights import openai_names, read_weights
from dassl.utils import sha256_of, write_json
from tools.data.verify import check_lists
from trainers.load import ZERO_SHOT

from .accuracy import Setup
from .data import FACTS, read
from .expected import stems
from .weights import digests


def record(setup: Setup, names: Sequence[str], path: Path) -> None:
    """An expectation file of the weights and the data sets, which are all here."""
    known, accuracies = {}, {}
    for name in tqdm(names, "recording", unit="data set", disable=None):
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = read(name, setup.root, setup.opts)
        checks = check_lists(dataset, dict.fromkeys(FACTS))
        known[name] = {one.what: int(one.found) if one.found.isdigit() else one.found for one in checks}
        arguments = setup.arguments(ZERO_SHOT, "zeroshot", stems()[name])
        tested = setup.test(setup.out / "runs" / name, arguments)
        accuracies[stems()[name]] = round(tested["results"]["test"]["accuracy"], 2)
    content = {
        "backbone": setup.expected.backbone,
        "settings": setup.expected.settings,
        "sha256": sha256_of(str(setup.weights)),
        "tensors": digests(openai_names(read_weights(setup.weights)[0])),
        "datasets": known,
        "accuracies": {ZERO_SHOT: accuracies},
    }
    write_json(content, str(path))
    print(f"{path}: what is expected with {setup.weights.name} of {', '.join(names)}")

"""What the output folders of the family's own code tell, whose runs and checkpoints have no record of what they are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from configs.runs import RunSpec

_SHOTS = r"(?P<settings>[^/]+)_(?P<shots>\d+)shots(?P<more>(?:/[^/]+)*?)"
_METHOD, _SEED = r"[^/]+", r"seed\d+"
_LAYOUTS = (
    rf"base2new/[^/]+/(?P<dataset>[^/]+)/shots_(?P<shots>\d+)/{_METHOD}/(?P<settings>.+)/{_SEED}",
    rf"evaluation/{_METHOD}/{_SHOTS}/[^/]+/{_SEED}",
    rf"(?P<dataset>[^/]+)/{_METHOD}/{_SHOTS}/{_SEED}",
)


def _told(folder: Path | str) -> dict[str, str]:
    """dataset, settings and shots, as far as the folder's name tells."""
    path = Path(folder).absolute().as_posix()
    found = next((match.groupdict() for layout in _LAYOUTS if (match := re.search(f"/{layout}$", path))), {})
    return found | ({"settings": found["settings"] + (found.get("more") or "")} if found else {})


def with_settings(spec: RunSpec, folder: Path) -> RunSpec:
    """The run with the settings that its folder names."""
    return replace(spec, settings=_told(folder).get("settings", ""))


def with_source(spec: RunSpec, model_dir: str) -> RunSpec:
    """The evaluation of a checkpoint with the data set and the shots that the checkpoint's folder names."""
    told = _told(model_dir) if model_dir else {}
    return replace(spec, source=told.get("dataset") or "", shots=int(told["shots"]) if told else spec.shots)

from importlib import import_module
from typing import Any

from dassl.compat import (
    check_isfile,
    count_num_param,
    init_network_weights,
    listdir_nohidden,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
)
from dassl.utils.lock import sole_user_of, taking_turns
from dassl.utils.logger import Logger, log, setup_logger
from dassl.utils.registry import Registry, UnknownNameError, check_availability, get_most_similar_str_to_a_from_b
from dassl.utils.tools import (
    BrokenImageError,
    atomic_write,
    collect_env_info,
    decode_image,
    derive_seed,
    download_url,
    exit_status,
    is_user_error,
    mkdir_if_missing,
    read_image,
    read_json,
    read_text,
    reading,
    set_exact_fp32,
    set_random_seed,
    sha256_of,
    tolist_if_not,
    write_json,
)

__all__ = [
    "AverageMeter",
    "BrokenImageError",
    "Logger",
    "MetricMeter",
    "Registry",
    "UnknownNameError",
    "atomic_write",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "decode_image",
    "derive_seed",
    "download_url",
    "exit_status",
    "get_most_similar_str_to_a_from_b",
    "init_network_weights",
    "is_user_error",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "log",
    "mkdir_if_missing",
    "open_all_layers",
    "open_specified_layers",
    "read_image",
    "read_json",
    "read_text",
    "reading",
    "restore",
    "resume_from_checkpoint",
    "save_checkpoint",
    "save_torch",
    "set_exact_fp32",
    "set_random_seed",
    "setup_logger",
    "sha256_of",
    "sole_user_of",
    "taking_turns",
    "tolist_if_not",
    "write_json",
]


# What needs torch is imported when it is first asked for: torch takes seconds, and a usage or a table needs none of it.
_BY_MODULE = {
    "dassl.utils.meters": ("AverageMeter", "MetricMeter"),
    "dassl.checkpoints": (*("load_checkpoint", "restore", "resume_from_checkpoint", "save_checkpoint", "save_torch"),),
}
_WITH_TORCH = {name: module for module, names in _BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WITH_TORCH[name]), name)

import importlib

import pytest

SURFACE = {
    "dassl": "__version__ __author__ __homepage__",
    "dassl.config": "get_cfg_default clean_cfg",
    "dassl.config.defaults": "_C",
    "dassl.utils": (
        "mkdir_if_missing check_isfile read_json write_json set_random_seed download_url read_image collect_env_info "
        "listdir_nohidden get_most_similar_str_to_a_from_b check_availability tolist_if_not Logger setup_logger "
        "AverageMeter MetricMeter Registry save_checkpoint load_checkpoint resume_from_checkpoint open_all_layers "
        "open_specified_layers count_num_param load_pretrained_weights init_network_weights"
    ),
    "dassl.data": "DataManager DatasetWrapper",
    "dassl.data.data_manager": (
        "DataManager DatasetWrapper build_data_loader build_dataset build_sampler build_transform INTERPOLATION_MODES "
        "read_image"
    ),
    "dassl.data.datasets": "DATASET_REGISTRY build_dataset Datum DatasetBase",
    "dassl.data.datasets.build": "build_dataset DATASET_REGISTRY",
    "dassl.data.datasets.base_dataset": "Datum DatasetBase",
    "dassl.data.samplers": "build_sampler",
    "dassl.data.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.data.transforms.transforms": "build_transform",
    "dassl.optim": "build_optimizer build_lr_scheduler",
    "dassl.optim.optimizer": "build_optimizer",
    "dassl.optim.lr_scheduler": "build_lr_scheduler ConstantWarmupScheduler LinearWarmupScheduler _BaseWarmupScheduler",
    "dassl.metrics": "compute_accuracy cosine_distance compute_distance_matrix euclidean_squared_distance",
    "dassl.evaluation": "build_evaluator EVALUATOR_REGISTRY EvaluatorBase Classification",
    "dassl.engine": "TRAINER_REGISTRY build_trainer TrainerX TrainerBase SimpleTrainer",
    "dassl.engine.build": "TRAINER_REGISTRY build_trainer",
    "dassl.engine.trainer": "TrainerBase SimpleTrainer TrainerX SummaryWriter",
    "dassl.optim.radam": "RAdam PlainRAdam AdamW",
}


@pytest.mark.parametrize("module", SURFACE)
def test_the_familys_import_paths_exist(module):
    missing = [name for name in SURFACE[module].split() if not hasattr(importlib.import_module(module), name)]
    assert missing == []


@pytest.mark.parametrize("module", ["dassl.engine", "dassl.engine.trainer"])
@pytest.mark.parametrize("name", ["TrainerXU", "SimpleNet", "DANN", "FixMatch"])
def test_names_that_are_left_out_say_so(module, name):
    with pytest.raises(ImportError, match=rf"{name} \(.*\) is not part of this engine.*labelled prompt learning only"):
        exec(f"from {module} import {name}")


def test_other_names_are_ordinarily_absent():
    with pytest.raises(ImportError, match="cannot import name 'Nonsense'"):
        exec("from dassl.engine import Nonsense")
    assert not hasattr(importlib.import_module("dassl.engine"), "nonsense")


@pytest.mark.parametrize("statement", ["import dassl.modeling", "from dassl.modeling.ops import mixup"])
def test_cnn_models_are_left_out(statement):
    with pytest.raises(ImportError, match="labelled prompt learning only"):
        exec(statement)

"""Every option of the engine with its default. A method declares its own ``TRAINER.<SECTION>`` in its own file.

A merged value must have its default's type; a whole number will do for a float. ``dassl.compat`` adds keys that nobody
reads here, so that existing YAML files still merge.
"""

from yacs.config import CfgNode

from dassl.compat import UNREAD

_C = CfgNode()
_C.VERSION = 1
_C.OUTPUT_DIR = "./output"
_C.RESUME = ""  # folder to resume from; empty: OUTPUT_DIR
_C.SEED = -1  # negative: a seed is drawn, and recorded in config.yaml
_C.USE_CUDA = True
_C.VERBOSE = True
_C.NUM_RANKS = 1  # of a recorded run: its processes; not read, as torchrun says how many there are

_C.INPUT = CfgNode()
_C.INPUT.SIZE = (224, 224)  # height, width in pixels
_C.INPUT.INTERPOLATION = "bilinear"  # bilinear | bicubic | nearest
_C.INPUT.TRANSFORMS = ()  # names in dassl.data.transforms; the order they run in is fixed
_C.INPUT.NO_TRANSFORM = False
_C.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]
_C.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]
_C.INPUT.CROP_PADDING = 4
_C.INPUT.RRCROP_SCALE = (0.08, 1.0)
_C.INPUT.CUTOUT_N = 1
_C.INPUT.CUTOUT_LEN = 16
_C.INPUT.GN_MEAN = 0.0
_C.INPUT.GN_STD = 0.15
_C.INPUT.RANDAUGMENT_N = 2
_C.INPUT.RANDAUGMENT_M = 10
_C.INPUT.COLORJITTER_B = 0.4
_C.INPUT.COLORJITTER_C = 0.4
_C.INPUT.COLORJITTER_S = 0.4
_C.INPUT.COLORJITTER_H = 0.1
_C.INPUT.RGS_P = 0.2
_C.INPUT.GB_P = 0.5
_C.INPUT.GB_K = 21

_C.DATASET = CfgNode()
_C.DATASET.ROOT = ""  # folder that holds all data sets
_C.DATASET.NAME = ""
_C.DATASET.PATH = ""  # one's own images: a folder or a list file
_C.DATASET.DUPLICATES = "refuse"  # an own image in several classes or lists: refuse | drop | allow
_C.DATASET.CLASSNAMES = ""  # file that maps folders or labels to class names
_C.DATASET.TEMPLATE = ""  # e.g. "a photo of a {}."; empty: the data set's own
_C.DATASET.SUBSAMPLE_CLASSES = "all"  # all | base | new
_C.DATASET.NUM_SHOTS = -1  # training images per class; below 1: all of them
_C.DATASET.HELD_OUT = 0  # training images of each class that serve as val where val would be the test images
_C.DATASET.HELD_OUT_CLASSES = 0  # only of so many classes, which are drawn; 0: of all
_C.DATASET.ALL_AS_UNLABELED = False  # the images of all training lists, whatever shots and classes, without labels
_C.DATASET.SOURCE_DOMAINS = ()
_C.DATASET.TARGET_DOMAINS = ()

_C.DATALOADER = CfgNode()
_C.DATALOADER.NUM_WORKERS = 4  # at most one per CPU and batch is started; the results do not depend on it
_C.DATALOADER.PREFETCH_FACTOR = 2  # batches that each worker makes in advance
_C.DATALOADER.CACHE = "none"  # none | ram: keep decoded training and validation images in memory
_C.DATALOADER.CACHE_FEATURES = False  # for trainers whose image features never change
_C.DATALOADER.FEATURE_VIEWS = 1  # augmented views of an image that CACHE_FEATURES keeps; an epoch sees one of them
_C.DATALOADER.FEATURE_STORE = ""  # folder that keeps image features of frozen encoders for later runs; empty: none
_C.DATALOADER.SKIP_BROKEN = False  # unreadable images: an error, or skipped
_C.DATALOADER.K_TRANSFORMS = 1  # augmented views per training image
_C.DATALOADER.RETURN_IMG0 = False  # also return the image without augmentation
_C.DATALOADER.TRAIN_X = CfgNode()
_C.DATALOADER.TRAIN_X.SAMPLER = "RandomSampler"
_C.DATALOADER.TRAIN_X.BATCH_SIZE = 32  # images of one process and pass; 0: what GLOBAL_BATCH leaves
_C.DATALOADER.TRAIN_X.N_DOMAIN = 0  # domains per batch of the domain samplers; 0: all
_C.DATALOADER.TRAIN_X.N_INS = 16  # images per class of RandomClassSampler
_C.DATALOADER.TRAIN_U = CfgNode()
_C.DATALOADER.TRAIN_U.SAME_AS_X = True
_C.DATALOADER.TRAIN_U.SAMPLER = "RandomSampler"
_C.DATALOADER.TRAIN_U.BATCH_SIZE = 32
_C.DATALOADER.TRAIN_U.N_DOMAIN = 0
_C.DATALOADER.TRAIN_U.N_INS = 16
_C.DATALOADER.TEST = CfgNode()
_C.DATALOADER.TEST.SAMPLER = "SequentialSampler"
_C.DATALOADER.TEST.BATCH_SIZE = 32

_C.MODEL = CfgNode()
_C.MODEL.TEXT_MEMORY_GB = 4.0  # budget of the text tower's activations
_C.MODEL.SHARD_CLASSES = True  # each of several processes encodes its share of the class texts; False: all of them
_C.MODEL.BACKBONE = CfgNode()
_C.MODEL.BACKBONE.NAME = ""
_C.MODEL.BACKBONE.PATH = ""  # local weights file; empty: downloaded by name

_C.OPTIM = CfgNode()
_C.OPTIM.NAME = "adam"  # adam | amsgrad | sgd | rmsprop | radam | adamw
_C.OPTIM.LR = 0.0003
_C.OPTIM.WEIGHT_DECAY = 5e-4
_C.OPTIM.MOMENTUM = 0.9
_C.OPTIM.SGD_DAMPNING = 0
_C.OPTIM.SGD_NESTEROV = False
_C.OPTIM.RMSPROP_ALPHA = 0.99
_C.OPTIM.ADAM_BETA1 = 0.9
_C.OPTIM.ADAM_BETA2 = 0.999
_C.OPTIM.ADAM_EPS = 1e-8
_C.OPTIM.STAGED_LR = False  # NEW_LAYERS learn at LR, all other children at LR * BASE_LR_MULT
_C.OPTIM.NEW_LAYERS = ()
_C.OPTIM.BASE_LR_MULT = 0.1
_C.OPTIM.LR_SCHEDULER = "single_step"  # single_step | multi_step | cosine
_C.OPTIM.SCHEDULE_UNIT = "epoch"  # epoch | step: how often the rate changes
_C.OPTIM.STEPSIZE = (-1,)  # epochs; single_step: 0 or less means MAX_EPOCH
_C.OPTIM.GAMMA = 0.1
_C.OPTIM.MAX_EPOCH = 10
_C.OPTIM.ACCUM_STEPS = 0  # passes whose gradients one step adds up; 0: what GLOBAL_BATCH needs, else 1
_C.OPTIM.GLOBAL_BATCH = 0  # images a step = processes x BATCH_SIZE x ACCUM_STEPS; 0: whatever that is
_C.OPTIM.WARMUP_EPOCH = -1  # 0 or less: no warm-up
_C.OPTIM.WARMUP_TYPE = "linear"  # linear | constant
_C.OPTIM.WARMUP_CONS_LR = 1e-5
_C.OPTIM.WARMUP_MIN_LR = 1e-5
_C.OPTIM.WARMUP_RECOUNT = True  # the schedule starts at its own epoch 0 after the warm-up

_C.TRAIN = CfgNode()
_C.TRAIN.CHECKPOINT_FREQ = 0  # keep a checkpoint every so many epochs; 0: the last one only
_C.TRAIN.CHECKPOINT_MINUTES = 10.0  # keep the state to go on from, in the middle of an epoch; 0: never
_C.TRAIN.CHECKPOINT_STEPS = 0  # also every so many steps
_C.TRAIN.KEEP_STATES = 2  # the newest so many of these
_C.TRAIN.PRINT_FREQ = 10  # batches

_C.TEST = CfgNode()
_C.TEST.EVALUATOR = "Classification"
_C.TEST.PER_CLASS_RESULT = False
_C.TEST.COMPUTE_CMAT = False
_C.TEST.NO_TEST = False
_C.TEST.SPLIT = "test"  # test | val
_C.TEST.FINAL_MODEL = "last_step"  # last_step | best_val
_C.TEST.SELECT_EPOCHS = 1  # best_val looks at the validation images every so many epochs; 0: after the last one only
_C.TEST.SELECT_STEPS = 0  # also every so many steps; 0: only at the end of epochs

_C.TRAINER = CfgNode()
_C.TRAINER.NAME = ""
_C.TRAINER.INIT_PROMPTS = ""  # checkpoint whose prompts are the starting point


def _set(node: CfgNode, key: str, value: object) -> None:
    """Set a dotted key, and make the sections on the way to it."""
    head, _, rest = key.partition(".")
    if rest:
        _set(node.setdefault(head, CfgNode()), rest, value)
    else:
        node[head] = value


for _key, _value in UNREAD.items():
    _set(_C, _key, _value)

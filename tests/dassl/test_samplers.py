import random
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import RandomSampler

from dassl.data.datasets import Datum
from dassl.data.samplers import RankShare, SequentialDistributedSampler, build_sampler
from dassl.ranks import Ranks


def items(labels: list[int] | None = None, domains: list[int] | None = None) -> list[Datum]:
    count = len(labels or domains)
    return [Datum("", label, domain) for label, domain in zip(labels or [0] * count, domains or [0] * count)]


def test_every_batch_has_an_equal_share_of_all_domains():
    source = items(domains=[0] * 10 + [1] * 7 + [2] * 8)
    order = list(build_sampler("SeqDomainSampler", data_source=source, batch_size=6))
    assert len(order) == len(build_sampler("SeqDomainSampler", data_source=source, batch_size=6)) == 18
    assert len(set(order)) == 18
    for start in range(0, 18, 6):
        assert [source[i].domain for i in order[start : start + 6]] == [0, 0, 1, 1, 2, 2]


def test_random_domains():
    random.seed(1)
    source = items(domains=[0] * 10 + [1] * 10 + [2] * 10)
    order = list(build_sampler("RandomDomainSampler", data_source=source, batch_size=4, n_domain=2))
    assert len(order) >= 16 and len(set(order)) == len(order)
    for start in range(0, len(order), 4):
        assert sorted(Counter(source[i].domain for i in order[start : start + 4]).values()) == [2, 2]
    with pytest.raises(ValueError, match="4 cannot be shared equally by 3"):
        build_sampler("RandomDomainSampler", data_source=source, batch_size=4)


def test_random_classes():
    source = items(labels=[0] * 9 + [1] * 4 + [2] * 2 + [3] * 8)
    order = list(build_sampler("RandomClassSampler", data_source=source, batch_size=8, n_ins=4))
    assert len(order) % 8 == 0 and len(order) >= 16
    for start in range(0, len(order), 8):
        assert sorted(Counter(source[i].label for i in order[start : start + 8]).values()) == [4, 4]
    with pytest.raises(ValueError, match="at least n_ins 4"):
        build_sampler("RandomClassSampler", data_source=source, batch_size=2, n_ins=4)


@pytest.mark.parametrize(("count", "ranks"), [(10, 3), (12, 2), (1, 2)])
def test_gathering_contiguous_blocks_restores_the_order(count, ranks):
    blocks = [list(SequentialDistributedSampler(range(count), 2, rank, ranks)) for rank in range(ranks)]
    assert len({len(block) for block in blocks}) == 1 and len(blocks[0]) % 2 == 0
    gathered = [index for block in blocks for index in block]
    assert gathered[:count] == list(range(count)) and set(gathered[count:]) <= {count - 1}


def test_shuffled_is_the_order_of_torch():
    items = range(70_000)
    torch.manual_seed(5)
    expected = [list(RandomSampler(items)), list(RandomSampler(items))]
    torch.manual_seed(5)
    sampler = build_sampler("RandomSampler", data_source=items)
    assert [list(sampler), list(sampler)] == expected


def test_distributed_names_work_in_a_single_process():
    assert not dist.is_initialized()
    source = items(labels=list(range(20)))
    assert list(build_sampler("SequentialDistributedSampler", data_source=source)) == list(range(20))
    sampler = build_sampler("DistributedSampler", data_source=source)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(sampler) == list(range(20)) and first != list(sampler)


def test_unknown_sampler():
    with pytest.raises(ValueError, match="Unknown sampler type: Best"):
        build_sampler("Best", data_source=items(labels=[0]))


@pytest.mark.parametrize(("count", "size", "batch"), [(24, 1, 5), (24, 2, 6), (25, 3, 4), (7, 2, 6), (8, 3, 5)])
@pytest.mark.parametrize("first", [0, 1])
def test_ranks_share_the_order_of_one(count, size, batch, first):
    """Of every step each has a block; an incomplete one is left out, unless it is the only one."""
    shares = [RankShare(range(count), Ranks(size, rank), batch) for rank in range(size)]
    for share in shares:
        share.first_step = first
    visited = [list(share) for share in shares]
    whole = count // (size * batch) or 1
    steps = [[share[k * batch : (k + 1) * batch] for share in visited] for k in range(whole - first)]
    expected = list(range(count))[: whole * size * batch][first * size * batch :]
    assert [index for step in steps for block in step for index in block] == expected
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert first or [len(share) for share in shares] == [len(items) for items in visited]


@pytest.mark.parametrize(("count", "size"), [(10, 3), (12, 4), (5, 5)])
def test_ranks_evaluate_each_image_once(count, size):
    visited = [list(RankShare(range(count), Ranks(size, rank), None)) for rank in range(size)]
    assert sorted(index for share in visited for index in share) == list(range(count))
    assert [len(RankShare(range(count), Ranks(size, rank), None)) for rank in range(size)] == [*map(len, visited)]
    with pytest.raises(ValueError, match="cannot share"):
        RankShare(range(size - 1), Ranks(size), None)
